"""Least squares by streaming Householder QR, without normal equations.

The triangular factor R of ``A = [1 X y]`` contains all that least squares needs of a table:
``|A v| = |R v|`` for every vector v. It is computed block by block, as the factor of two
stacked blocks is the factor of their stacked factors (Golub and Van Loan, Matrix
Computations, 5.2 and 6.5; tall-skinny QR: Demmel et al. 2012), and it is as accurate as
Householder QR of the whole table (Higham, Accuracy and Stability of Numerical
Algorithms, theorem 20.3). Factors can be merged in any order, over batches and processes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS_AT_ONCE, NUMBERS_AT_ONCE = 2**12, 2**16  # whichever gives more rows; such a block fits in a core's cache
RANK_TOLERANCE = 64 * torch.finfo(torch.float64).eps  # is multiplied by the number of columns


class RankDeficientError(ValueError):
    """The columns are linearly dependent, so the optimum is not unique.

    Attributes:
        columns: indices of the columns involved; the column of ones has index -1.
    """

    def __init__(self, columns: list[int]) -> None:
        super().__init__(f"columns {columns} are linearly dependent")
        self.columns = columns


def triangular_factor(X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the triangular factor of ``[1 X y]``, each row multiplied by the square root of its weight.

    Args:
        X: features, shape ``(n, P)``, of any floating dtype.
        y: target, shape ``(n, 1)``.
        weight: weight of each row, shape ``(n, 1)``, not negative; ones by default.

    Returns:
        Upper triangular, float64, shape ``(P + 2, P + 2)``; rows beyond ``n`` are zero.
    """
    width = X.shape[1] + 2
    size = min(max(ROWS_AT_ONCE, NUMBERS_AT_ONCE // width), len(X))
    workspace = torch.empty(width * size, dtype=torch.float64, device=X.device)
    factors = []
    for start in range(0, len(X), max(size, 1)):
        rows, target = X[start : start + size], y[start : start + size]
        columns = workspace[: width * len(rows)].view(width, len(rows))  # in column-major order, as LAPACK expects
        columns[0], columns[1:-1], columns[-1:] = 1, rows.mT, target.mT
        if weight is not None:
            columns *= weight[start : start + size].mT.double().sqrt()
        A, tau = columns.mT, columns.new_empty(min(columns.shape))
        torch.geqrf(A, out=(A, tau))  # in place
        factors.append(A[:width].triu())
    if len(factors) == 1:
        return _padded(factors[0])
    return triangularize(torch.cat(factors)) if factors else workspace.new_zeros(width, width)


def triangularize(A: Tensor) -> Tensor:
    """Return the triangular factor of any matrix ``(n, k)``, padded with zeros to ``(k, k)``."""
    return _padded(torch.linalg.qr(A, mode="r").R)


def _padded(R: Tensor) -> Tensor:
    rows, columns = R.shape
    return R if rows == columns else torch.cat([R, R.new_zeros(columns - rows, columns)])


def merge_factors(factors: Tensor) -> Tensor:
    """Return the factor of several tables together: ``(k, P + 2, P + 2)`` to ``(P + 2, P + 2)``."""
    return triangularize(factors.flatten(end_dim=1))


class Solution(NamedTuple):
    """The least-squares optimum of a table.

    Attributes:
        weight: shape ``(P,)``, float64.
        bias: shape ``()``; zero if there is none.
        factor: triangular factor of ``[1 X y]``, or of ``[X y]`` if there is no bias,
            without the penalty; shape ``(p + 1, p + 1)`` for ``p`` coefficients.
        num_rows: number of rows of the table.
        has_bias: whether the first column of the factor is the column of ones.
        penalty: ridge penalty; inference needs a penalty of zero.
    """

    weight: Tensor
    bias: Tensor
    factor: Tensor
    num_rows: int
    has_bias: bool
    penalty: float

    @property
    def theta(self) -> Tensor:
        """All coefficients in the order of the factor's columns: the bias first, if there is one."""
        return torch.cat([self.bias.reshape(1), self.weight]) if self.has_bias else self.weight


def num_rows(R: Tensor) -> int:
    """Return the number of rows of a table from its factor: the squared length of the column of ones."""
    return round(R[0, 0].item() ** 2)


def solve(
    R: Tensor, bias: bool = True, ridge: float = 0.0, scale: Tensor | None = None, minimum_norm: bool = False
) -> Solution:
    """Find the coefficients that minimise ``|y - Xw - b|² + ridge |scale * w|²``.

    Args:
        R: triangular factor of ``[1 X y]``, shape ``(P + 2, P + 2)``.
        bias: whether there is an intercept; it is never penalised.
        ridge: strength of the penalty.
        scale: scales of the weights in the penalty, shape ``(P,)``; the standard deviations of the
            columns give the penalty for standardised columns. Ones by default.
        minimum_norm: if the optimum is not unique, return the one with the shortest weight vector.

    Raises:
        RankDeficientError: the columns are linearly dependent, without a penalty or ``minimum_norm``.
    """
    count = num_rows(R)
    factor = R if bias else triangularize(R[:, 1:])
    augmented = factor
    if ridge:
        units = torch.ones(R.shape[0] - 2, dtype=R.dtype) if scale is None else scale
        rows = torch.diag(torch.cat([units.new_zeros(int(bias)), ridge**0.5 * units, units.new_zeros(1)]))
        augmented = triangularize(torch.cat([factor, rows]))
    dependent = dependent_columns(augmented)
    if dependent and not minimum_norm:
        raise RankDeficientError([column - int(bias) for column in dependent])
    R, target = augmented[:-1, :-1], augmented[:-1, -1:]
    theta = _shortest(R, target, bias) if dependent else torch.linalg.solve_triangular(R, target, upper=True)
    theta = theta.squeeze(1)
    weight = theta[1:] if bias else theta
    return Solution(weight, theta[0] if bias else theta.new_zeros(()), factor, count, bias, ridge)


def _shortest(R: Tensor, target: Tensor, bias: bool) -> Tensor:
    """Return the least-squares solution of ``R θ = target`` with the shortest weight vector, shape ``(p, 1)``."""
    norms = _column_norms(R)
    U, singular, V = torch.linalg.svd(R / norms)
    kept = _kept(singular)
    theta: Tensor = V[kept].mT @ (U[:, kept].mT @ target / singular[kept, None]) / norms[:, None]
    free = (V[~kept] / norms).mT  # directions in which predictions do not change
    theta -= free @ torch.linalg.lstsq(free[int(bias) :], theta[int(bias) :]).solution
    return theta


def unique_solution(R: Tensor, bias: bool) -> Solution | None:
    """Return the optimum from a factor of ``[1 X y]``; None if it is not unique."""
    if num_rows(R) < len(R) - 2 + int(bias):
        return None
    try:
        return solve(R, bias)
    except RankDeficientError:
        return None


def _column_norms(columns: Tensor) -> Tensor:
    """Return the length of each column, or 1 for a column of zeros, to make the rank independent of units."""
    norms = columns.norm(dim=0)
    return torch.where(norms > 0, norms, 1.0)


def _kept(singular: Tensor) -> Tensor:
    """Return which singular values of columns of length 1 differ from zero by more than rounding errors."""
    return singular > RANK_TOLERANCE * len(singular) * singular.max()


def dependent_columns(factor: Tensor) -> list[int]:
    """Return the indices of the columns that are linearly dependent; empty at full rank."""
    columns = factor[:-1, :-1]
    _, singular, V = torch.linalg.svd(columns / _column_norms(columns))
    null = V[~_kept(singular)]
    return torch.nonzero((null.abs() > 1e-6).any(dim=0)).flatten().tolist()


def matrix_rank(factor: Tensor) -> int:
    """Return the rank of the coefficient columns, each scaled to length 1."""
    columns = factor[:-1, :-1]
    return int(_kept(torch.linalg.svdvals(columns / _column_norms(columns))).sum())


def condition_number(factor: Tensor) -> float:
    """Return the condition number of the coefficient columns, in their own units."""
    singular = torch.linalg.svdvals(factor[:-1, :-1])
    return float(singular[0] / singular[-1])


def column_std(R: Tensor) -> Tensor:
    """Return the population standard deviations of the columns of X, shape ``(P,)``, from a factor of ``[1 X y]``."""
    deviations: Tensor = R[1:, 1:-1].norm(dim=0)
    return deviations / abs(R[0, 0])


def residual_sum_of_squares(R: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Return ``|y - Xw - b|²`` for any coefficients, from the factor alone.

    Args:
        R: triangular factor of ``[1 X y]``.
        weight: shape ``(P,)``.
        bias: shape ``()``.
    """
    v = torch.cat([bias.reshape(1), weight, -bias.new_ones(1)])
    return float((R @ v).square().sum())


def profile(R: Tensor, columns: list[int], bias: bool) -> Tensor:
    """Return the factor ``G`` of the profile of the residual sum of squares over some coefficients.

    ``|G (v, -1)|²`` is the smallest sum of squares if these coefficients are ``v`` and the others are optimal.

    Args:
        R: triangular factor of ``[1 X y]``.
        columns: columns of R that belong to these coefficients: 0 for the bias, 1 for the first weight.
        bias: whether there is an intercept; else it is zero.

    Returns:
        Shape ``(c + 1, c + 1)`` for ``c`` coefficients.
    """
    others = [column for column in range(int(not bias), len(R) - 1) if column not in columns]
    return triangularize(R[:, [*others, *columns, len(R) - 1]])[len(others) :, len(others) :]


def total_sum_of_squares(R: Tensor, centred: bool = True) -> float:
    """Return ``|y - ȳ|²``, or ``|y|²`` if not centred, from a factor of ``[1 X y]``."""
    return float(R[int(centred) :, -1].square().sum())
