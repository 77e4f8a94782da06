"""Covariance of least-squares coefficients under errors of unequal variance, in one more pass over the rows.

The covariance is ``(XᵀX)⁻¹ (Σ s sᵀ) (XᵀX)⁻¹``, where s is the score ``e x`` of a row (White 1980), with corrections
of the residuals e for small tables (MacKinnon and White 1985), or the sum of the scores of a cluster (Liang and Zeger
1986; two-way clusters: Cameron, Gelbach and Miller 2011). The sum is formed in coordinates in which the columns are
orthonormal (`linreg_pl.functional.whitening`), so that it loses no digits where columns are alike, and nothing is
subtracted. What is kept is a root G of the covariance, ``G Gᵀ``.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from linreg_pl.functional.whitening import WhitenedBlock, Whitening

CovarianceKind = Literal["classical", "HC0", "HC1", "HC2", "HC3", "cluster"]
POWERS = {"HC2": 0.5, "HC3": 1.0}  # of 1 - leverage, by which residuals are divided
NO_RESIDUAL = 1e-10  # 1 - leverage of a row that the fit meets whatever its target
FEW_CLUSTERS = 30


class Covariance(NamedTuple):
    """Covariance of the coefficients of a solution.

    The root is NaN if HC2 or HC3 have no value because a row alone tells a coefficient.
    """

    kind: str  # "HC0" to "HC3", or "cluster"
    root: Tensor  # G, in the order of `Solution.theta`, shape (p, p)
    clusters: dict[str, int]  # number of clusters by each column
    mended: bool  # whether a two-way covariance had negative eigenvalues, which were set to 0

    def dof(self, dof: int) -> int:
        """Degrees of freedom of t and F, where those of the residuals are given."""
        return min(self.clusters.values()) - 1 if self.clusters else dof


class ClusterSums(NamedTuple):
    """Sums of scores over the rows of each cluster: its key, int64 ``(G,)``, and its sum ``(G, p)``."""

    keys: Tensor
    sums: Tensor


class ScoreSums:
    """Sums over the scores ``q e / (1 - h)^a`` of whitened rows, where h is a row's leverage and the kind decides a.

    Args:
        kind: "HC0" to "HC3", or "cluster".
        num_coefficients: p.
        num_keys: kinds of clusters, one or two, or 0; for two there is a third, by both together.

    Attributes:
        gram: ``Σ s sᵀ``, shape ``(p, p)``, unless there are clusters.
        clusters: the scores' sums by each kind of clusters.
    """

    def __init__(self, kind: str, num_coefficients: int, num_keys: int = 0) -> None:
        self.kind = kind
        self.gram = torch.zeros(num_coefficients, num_coefficients, dtype=torch.float64)
        empty = ClusterSums(torch.empty(0, dtype=torch.int64), self.gram[:0])
        self.clusters = [empty] * (3 if num_keys == 2 else num_keys)

    def add(self, block: WhitenedBlock, rows: slice, q: Tensor, keys: Sequence[Tensor] = ()) -> None:
        """Add some rows; q is overwritten. Keys of clusters are int64, shape ``(n,)``, for all rows of the block."""
        size = block.residual[rows]
        if power := POWERS.get(self.kind):
            assert block.leverage is not None
            left = 1 - block.leverage[rows]
            if bool((left <= NO_RESIDUAL).any()):
                self.gram.fill_(torch.nan)
            size = size / (left.sqrt_() if power == 0.5 else left)
        q *= size
        keys = [key[rows] for key in keys]
        if len(keys) == 2:
            keys = [*keys, keys[0] * 6364136223846793005 + keys[1]]  # a hash of the two
        if keys:
            pairs = zip(self.clusters, keys, strict=True)
            self.clusters = [merge_clusters([found, ClusterSums(key, q.mT)]) for found, key in pairs]
        else:
            self.gram.addmm_(q, q.mT)

    def merge(self, other: "ScoreSums") -> None:
        """Add the sums over other rows."""
        self.gram += other.gram
        self.clusters = [merge_clusters(pair) for pair in zip(self.clusters, other.clusters, strict=True)]

    def covariance(self, whitening: Whitening, names: Sequence[str] = ()) -> Covariance:
        """Return the covariance from the sums over all rows, by whose factor they were whitened.

        Clusters are named; Stata's factor for few of them is used.
        """
        n, p = whitening.solution.num_rows, len(self.gram)
        gram = self.gram * (n / (n - p)) if self.kind == "HC1" else self.gram
        for found, sign in zip(self.clusters, (1, 1, -1), strict=False):
            count = len(found.keys)
            gram = gram + sign * count / (count - 1) * (n - 1) / (n - p) * (found.sums.mT @ found.sums)
        root, mended = _root(gram)
        root = whitening.coefficient_root(root)
        if mended:  # as the authors do it, of the coefficients themselves
            root, _ = _root(whitening.coefficient_root(whitening.coefficient_root(gram).mT))
        clusters = {name: len(found.keys) for name, found in zip(names, self.clusters, strict=False)}
        return Covariance(self.kind, root, clusters, mended)


def _root(covariance: Tensor) -> tuple[Tensor, bool]:
    """Return a root of a symmetric matrix, and whether it had negative eigenvalues, which are taken for 0."""
    if not covariance.isfinite().all():
        return torch.full_like(covariance, torch.nan), False
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt(), bool((values < -1e-12 * values[-1]).any())


def merge_clusters(parts: Sequence[ClusterSums]) -> ClusterSums:
    """Add up what has the same key."""
    keys, inverse = torch.unique(torch.cat([part.keys for part in parts]), return_inverse=True)
    rows = torch.cat([part.sums for part in parts])
    return ClusterSums(keys, rows.new_zeros(len(keys), rows.shape[1]).index_add_(0, inverse, rows))
