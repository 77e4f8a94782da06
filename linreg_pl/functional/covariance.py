"""Covariance of least-squares coefficients under errors of unequal variance, in one more pass over the rows.

The covariance is ``(XᵀX)⁻¹ (Σ s sᵀ) (XᵀX)⁻¹``, where s is the score ``e x`` of a row (White 1980), with corrections
of the residuals e for small tables (MacKinnon and White 1985), or the sum of the scores of a cluster (Liang and Zeger
1986; two-way clusters: Cameron, Gelbach and Miller 2011). The sum is never formed: with the triangular factor M of the
rows s, ``G = R⁻¹R⁻ᵀMᵀ`` is a root of the covariance, ``G Gᵀ``.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from linreg_pl.functional.factors import factor_in_place, rows_of_a_block, triangularize
from linreg_pl.functional.least_squares import Solution

CovarianceKind = Literal["classical", "HC0", "HC1", "HC2", "HC3", "cluster"]
POWERS = {"HC2": 0.5, "HC3": 1.0}  # of 1 - leverage, by which residuals are divided
NO_RESIDUAL = 1e-10  # 1 - leverage of a row that the fit meets whatever its target
FEW_CLUSTERS = 30


class Covariance(NamedTuple):
    """Covariance of the coefficients of a solution.

    Attributes:
        kind: "HC0" to "HC3", or "cluster".
        root: ``G``, in the order of `Solution.theta`, shape ``(p, p)``. NaN if HC2 or HC3 have no value because a row
            alone tells a coefficient.
        clusters: number of clusters by each column.
        mended: whether a two-way covariance had negative eigenvalues, which were set to 0.
    """

    kind: str
    root: Tensor
    clusters: dict[str, int]
    mended: bool

    def dof(self, dof: int) -> int:
        """Degrees of freedom of t and F, where those of the residuals are given."""
        return min(self.clusters.values()) - 1 if self.clusters else dof


class ClusterSums(NamedTuple):
    """Sums of scores over the rows of each cluster: its key, int64 ``(G,)``, and its sum ``(G, p)``."""

    keys: Tensor
    sums: Tensor


class Scores:
    """Scores ``x e w / (1 - h)^a`` of rows, where h is a row's leverage and w its weight.

    With a bias, the columns are those of their deviations from the mean, which keeps the digits of a column far from 0.

    Args:
        solution: the optimum over all rows.
        kind: decides a.
        shifted: shifted factor of all rows, ``(P + 3, P + 2)``, which knows the means to more digits than the optimum.
    """

    def __init__(self, solution: Solution, kind: str, shifted: Tensor) -> None:
        R, bias = solution.factor, int(solution.has_bias)
        self.solution = solution
        self.kind = kind
        self.shift = shifted[-1, 1:] * bias
        self.means = shifted[0, 1:] / shifted[0, 0] * bias  # of the shifted columns
        # What is subtracted, in two steps if there is a shift, for the sake of digits.
        shifts = bool(self.shift.any())
        self.first = self.shift if shifts else self.means
        self.second = self.means if shifts else None
        columns = R[bias:-1, bias:-1]
        self.inverse = torch.linalg.solve_triangular(columns, torch.eye(len(columns), dtype=R.dtype), upper=True)
        self.mean_leverage = float(1 / R[0, 0].square()) if bias else 0.0

    def factor(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the triangular factor of the scores of some rows, shape ``(p, p)``.

        Args:
            X: raw features, shape ``(n, P)``.
            y: targets, shape ``(n, 1)``.
            weight: weights, shape ``(n, 1)``.
        """
        factors = [self.inverse.new_zeros(1, len(self.solution.theta))]
        factors += [factor_in_place(scores) for _, scores in self._blocks(X, y, weight)]
        return triangularize(torch.cat(factors))

    def cluster_sums(
        self, keys: Sequence[Tensor], X: Tensor, y: Tensor, weight: Tensor | None = None
    ) -> list[ClusterSums]:
        """Return the sums of the scores of some rows by their keys, each int64 ``(n,)``; other arguments as above.

        For two kinds of keys there are three results; the last is by both together.
        """
        if len(keys) == 2:
            keys = [*keys, keys[0] * 6364136223846793005 + keys[1]]  # a hash of the two
        empty = ClusterSums(keys[0][:0], self.inverse.new_zeros(0, len(self.solution.theta)))
        found = [empty] * len(keys)
        for rows, scores in self._blocks(X, y, weight):
            blocks = (ClusterSums(key[rows], scores.mT) for key in keys)
            found = [merge_clusters(pair) for pair in zip(found, blocks, strict=True)]
        return found

    def _blocks(self, X: Tensor, y: Tensor, weight: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """Yield the scores of some rows at a time, ``(p, n)``, which is in column-major order, as LAPACK expects."""
        w, bias = self.solution.weight, int(self.solution.has_bias)
        size = min(rows_of_a_block(len(w) + 2), len(X))
        memory = self.inverse.new_empty(2, (len(w) + bias) * size)  # used again by each block
        for start in range(0, len(X), max(size, 1)):
            rows = slice(start, start + size)
            count = len(y[rows])
            scores = memory[0, : (len(w) + bias) * count].view(-1, count)
            columns = scores[bias:]
            torch.sub(X[rows].mT, self.first[:-1, None], out=columns)
            if self.second is not None:
                columns -= self.second[:-1, None]
            residual = y[rows, 0].double() - self.shift[-1] - self.means[-1] - w @ columns
            each = 1.0 if weight is None else weight[rows, 0].double()
            if power := POWERS.get(self.kind):
                whitened = torch.mm(self.inverse.mT, columns, out=memory[1, : len(w) * count].view(-1, count))
                left = 1 - each * (self.mean_leverage + whitened.square_().sum(dim=0))
                left.masked_fill_(left <= NO_RESIDUAL, torch.nan)
                residual /= left.sqrt_() if power == 0.5 else left
            residual *= each
            columns *= residual
            scores[:bias] = residual
            yield rows, scores

    def _root(self, factor: Tensor) -> Tensor:
        bias = int(self.solution.has_bias)
        inverse = torch.block_diag(*[self.inverse.new_tensor(self.mean_leverage).sqrt()] * bias, self.inverse)
        root: Tensor = inverse @ (factor @ inverse).mT
        if bias:  # of the bias for columns as they are, not their deviations
            root[0] -= (self.shift + self.means)[:-1] @ root[1:]
        return root

    def covariance(self, factor: Tensor) -> Covariance:
        """Return the covariance from the factor of the scores of all rows."""
        n, p = self.solution.num_rows, len(self.solution.theta)
        correction = (n / (n - p)) ** 0.5 if self.kind == "HC1" else 1.0
        return Covariance(self.kind, correction * self._root(factor), {}, False)

    def clustered_covariance(self, found: Sequence[ClusterSums], names: Sequence[str]) -> Covariance:
        """Return the covariance from the sums of the scores of all rows, with Stata's factor for few clusters.

        Args:
            found: for one or two kinds of clusters, as `cluster_sums` returns them.
            names: of the one or two kinds.
        """
        n, p = self.solution.num_rows, len(self.solution.theta)
        clusters = {name: len(some.keys) for name, some in zip(names, found, strict=False)}
        roots = []
        for some in found:
            count = len(some.keys)
            correction = (count / (count - 1) * (n - 1) / (n - p)) ** 0.5
            roots.append(correction * self._root(triangularize(some.sums)))
        if len(roots) == 1:
            return Covariance(self.kind, roots[0], clusters, False)
        first, second, both = (root @ root.mT for root in roots)
        values, vectors = torch.linalg.eigh(first + second - both)
        mended = bool((values < -1e-12 * values[-1]).any())
        return Covariance(self.kind, vectors * values.clamp(min=0).sqrt(), clusters, mended)


def merge_scores(factors: Tensor) -> Tensor:
    """Return the factor of several tables' scores together: ``(k, p, p)`` to ``(p, p)``."""
    return triangularize(factors.flatten(end_dim=1))


def merge_clusters(parts: Sequence[ClusterSums]) -> ClusterSums:
    """Add up what has the same key."""
    keys, inverse = torch.unique(torch.cat([part.keys for part in parts]), return_inverse=True)
    rows = torch.cat([part.sums for part in parts])
    return ClusterSums(keys, rows.new_zeros(len(keys), rows.shape[1]).index_add_(0, inverse, rows))
