"""The largest learning rate at which SGD is stable.

On the half squared error a step is ``δ ← (I - lr A) δ + noise``, where δ is the distance to the
optimum and ``A = ZᵀZ/B`` the curvature (Hessian) of the mini-batch, with ``Z = [X 1]``. The mean
of |δ|² shrinks in every direction if ``lr < 2 / λmax(E[A]⁻¹ E[A²])``. For a mini-batch of the
whole table, this is 2 / λmax of the curvature; the bound is smaller for smaller and more unequal
mini-batches (Défossez and Bach 2015, Averaged Least-Mean-Squares: Bias-Variance Trade-offs and
Optimal Sampling Distributions, section 2).

Both means follow from sums over single rows: with ``a = z zᵀ`` of a row, ``a² = |z|² z zᵀ``, and of two different rows
of n, ``E[a a'] = (n E[a]² - E[a²]) / (n - 1)``.
"""

from copy import copy

import torch
from torch import Tensor

from linreg_pl.functional.standardize import Scaling

ROWS_AT_ONCE = 2**13  # whose intermediate results stay in a core's cache
WELL_CONDITIONED = 1e3  # ratio of curvatures up to which the errors of products in float32 do not count


class CurvatureMoments:
    """Sums over rows from which the mean and the mean square of the curvature of mini-batches follow.

    Args:
        num_features: columns of X.
        first: the first of the sums over all rows if it is known, as by `second_moments`, for it need not be added up.

    Attributes:
        num_rows: number of rows.
        well_conditioned: whether products may be of the rows' own dtype, as the first of the sums tells.
        sums: of ``v z zᵀ``, ``v² z zᵀ`` and ``v² |x|² z zᵀ``, where ``z = (x, 1)`` and v is a row's weight; float64,
            shape ``(3, P + 1, P + 1)``.
    """

    def __init__(self, num_features: int, first: Tensor | None = None) -> None:
        self.num_rows = 0
        self.first = first
        self.sums = torch.zeros(3, num_features + 1, num_features + 1, dtype=torch.float64)
        values = torch.zeros(1) if first is None else torch.linalg.eigvalsh(first)
        self.well_conditioned = bool(values[-1] < WELL_CONDITIONED * values[0])

    def empty(self) -> "CurvatureMoments":
        """Return moments of no rows yet, to be merged into these."""
        moments = copy(self)
        moments.num_rows, moments.sums = 0, torch.zeros_like(self.sums)
        return moments

    def merge(self, other: "CurvatureMoments") -> None:
        """Add the rows of another."""
        self.num_rows += other.num_rows
        self.sums += other.sums

    def add(self, X: Tensor, weight: Tensor | None = None) -> "CurvatureMoments":
        """Add rows ``(n, P)`` with weights ``(n, 1)``, by default ones, and return this object."""
        self.num_rows += len(X)
        dtype = X.dtype if self.well_conditioned else torch.float64
        workspace = torch.empty(min(len(X), ROWS_AT_ONCE), X.shape[1] + 1, dtype=dtype)
        for start in range(0, len(X), ROWS_AT_ONCE):
            rows = X[start : start + ROWS_AT_ONCE]
            Z = workspace[: len(rows)]
            Z[:, :-1], Z[:, -1] = rows, 1
            lengths = torch.linalg.vector_norm(Z[:, :-1], dim=1, keepdim=True)
            V = Z if weight is None else Z * weight[start : start + ROWS_AT_ONCE]
            if self.first is None:
                self.sums[0] += V.mT @ Z
            if weight is not None:
                self.sums[1] += V.mT @ V
            Q = V.mul_(lengths)
            self.sums[2] += Q.mT @ Q
        return self

    @property
    def mean(self) -> Tensor:
        """Mean of the curvature, the intercept as the last, shape ``(P + 1, P + 1)``."""
        return (self.sums[0] if self.first is None else self.first) / self.num_rows

    def of_mini_batches(self, batch_size: int, has_bias: bool) -> tuple[Tensor, Tensor]:
        """Return ``E[A]`` and ``E[A²]`` of the half squared error over mini-batches drawn without replacement.

        Each has shape ``(d, d)``, where d is P, or P + 1 with the intercept as the last. Fewer rows than a mini-batch
        has are one.
        """
        n, size, mean = self.num_rows, min(batch_size, self.num_rows), self.mean
        _, squared_weights, quartic = self.sums / n
        if not squared_weights.any():  # all rows weigh 1
            squared_weights = mean
        if has_bias:  # |z|² = |x|² + 1
            square = quartic + squared_weights
        else:
            mean, square = mean[:-1, :-1], quartic[:-1, :-1]
        of_pairs = (n * mean @ mean - square) / max(n - 1, 1)
        return mean, square / size + (1 - 1 / size) * of_pairs


def second_moments(factor: Tensor, scaling: Scaling | None = None) -> Tensor:
    """Return ``Σ v z zᵀ`` of rows, where ``z = (x, 1)`` and v is a row's weight, shape ``(P + 1, P + 1)``.

    Args:
        factor: shifted factor of ``[1 X y]`` over the rows as they are, ``(P + 3, P + 2)``.
        scaling: how they are standardised before; None if they are not.
    """
    columns, shift = factor[:-1, 1:-1].clone(), factor[-1, 1:-1]
    columns[0] += factor[0, 0] * (shift if scaling is None else shift - scaling.mean)
    Z = torch.cat([columns if scaling is None else columns / scaling.scale, factor[:-1, :1]], dim=1)
    return Z.mT @ Z


def greatest_lengths(rows: Tensor, num_features: int) -> Tensor:
    """Return the greatest ``√v`` and ``√v |x|`` of some rows ``(n, P + 1)``, or ``(n, P + 2)`` with weights v."""
    if not len(rows):
        return torch.zeros(2, dtype=torch.float64)
    lengths = torch.linalg.vector_norm(rows[:, :num_features], dim=1, keepdim=True)
    root = rows[:, num_features + 1 :].sqrt() if rows.shape[1] > num_features + 1 else rows.new_ones(1, 1)
    return torch.stack([root.amax(), (lengths * root).amax()]).double()


def rescaled_lengths(greatest: Tensor, earlier: Scaling, scaling: Scaling) -> Tensor:
    """Return a bound of the `greatest_lengths` that rows have by one scaling from those by an earlier one."""
    # x' = (x + (m - mean) / s) s / scale, so |x'| <= (|x| + |(m - mean) / s|) max(s / scale)
    (m, s), (mean, scale) = earlier, scaling
    root, length = greatest
    return torch.stack([root, (length + root * ((m - mean) / s).norm()) * (s / scale).amax()])


def surely_stable_lr(greatest: float, mean: Tensor, batch_size: int) -> float:
    """Return a learning rate that is not above `largest_stable_lr`, and needs no ``E[A²]``.

    As ``a² = v |z|² a``, no ``E[a²]`` is above ``max(v |z|²) E[a]``. As ``E[a²]`` is not below ``E[a]²``, the mean
    product of two different rows is not above ``E[a]²``. So ``E[A]⁻¹ E[A²]`` is not above
    ``max(v |z|²) / B + λmax(E[A])``, also with a penalty.

    Args:
        greatest: ``max(v |z|²)`` over all rows, the greatest curvature of a single one, or a bound of it.
        mean: mean of the curvatures, shape ``(d, d)``, penalty included.
        batch_size: B.
    """
    return 2 / (greatest / batch_size + float(torch.linalg.eigvalsh(mean)[-1]))


def largest_stable_lr(mean: Tensor, square: Tensor) -> tuple[float, Tensor]:
    """Return the largest lr at which the mean squared distance to the optimum does not grow.

    Args:
        mean: mean of the curvatures A of the mini-batches, shape ``(d, d)``, float64.
        square: mean of A², of the same shape.

    Returns:
        The learning rate for the half squared error, infinite if there is no curvature; and the
        direction that diverges first, as shares of the coefficients that sum to 1, shape ``(d,)``.
    """
    values, vectors = torch.linalg.eigh(mean)
    seen = values > values[-1].clamp(min=0) * 1e-12  # directions in which the mini-batches have curvature
    if not seen.any():
        return torch.inf, torch.zeros_like(values)
    whitened = vectors[:, seen] / values[seen].sqrt()
    growth, directions = torch.linalg.eigh(whitened.T @ square @ whitened)
    direction = (mean @ (whitened @ directions[:, -1])).square()
    return 2 / growth[-1].item(), direction / direction.sum()
