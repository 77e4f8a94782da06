"""Least squares by streaming Householder QR, never by normal equations.

The triangular factor R of ``A = [1 X y]`` holds all that least squares needs of a table:
``|A v| = |R v|`` for every vector v. It is found block by block, since the factor of two
stacked blocks is the factor of their stacked factors (Golub and Van Loan, Matrix
Computations, 5.2 and 6.5; tall-skinny QR: Demmel et al. 2012), and is as accurate as
Householder QR of the whole table (Higham, Accuracy and Stability of Numerical
Algorithms, theorem 20.3). It can be merged in any order, over batches and processes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS_AT_ONCE, NUMBERS_AT_ONCE = 2**12, 2**16  # whichever is more: a block stays in a core's own cache
RANK_TOLERANCE = 64 * torch.finfo(torch.float64).eps  # times the number of columns


class RankDeficientError(ValueError):
    """The columns are linearly dependent, so the optimum is not unique.

    Attributes:
        columns: indices of the columns involved; the first column of ones has index -1.
    """

    def __init__(self, columns: list[int]) -> None:
        super().__init__(f"columns {columns} are linearly dependent")
        self.columns = columns


def triangular_factor(X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Triangular factor of ``[1 X y]``, or of its rows times the square roots of their weights.

    Args:
        X: features, shape ``(n, P)``, of any floating dtype.
        y: target, shape ``(n, 1)``.
        weight: what the square of each row counts, shape ``(n, 1)``, nowhere negative; ones by default.

    Returns:
        Upper triangular, float64, shape ``(P + 2, P + 2)``; rows beyond ``n`` are zero.
    """
    width = X.shape[1] + 2
    size = min(max(ROWS_AT_ONCE, NUMBERS_AT_ONCE // width), len(X))
    workspace = torch.empty(width * size, dtype=torch.float64, device=X.device)
    factors = []
    for start in range(0, len(X), max(size, 1)):
        rows, target = X[start : start + size], y[start : start + size]
        columns = workspace[: width * len(rows)].view(width, len(rows))  # one after another, as LAPACK wants it
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
    """Triangular factor of any matrix ``(n, k)``, padded with zeros to ``(k, k)``."""
    return _padded(torch.linalg.qr(A, mode="r").R)


def _padded(R: Tensor) -> Tensor:
    rows, columns = R.shape
    return R if rows == columns else torch.cat([R, R.new_zeros(columns - rows, columns)])


def merge(factors: Tensor) -> Tensor:
    """Factor of several tables together, ``(k, P + 2, P + 2)`` to ``(P + 2, P + 2)``."""
    return triangularize(factors.flatten(end_dim=1))


class Solution(NamedTuple):
    """The least-squares optimum of a table.

    Attributes:
        weight: shape ``(P,)``, float64.
        bias: shape ``()``; zero where there is none.
        factor: triangular factor of ``[1 X y]``, or of ``[X y]`` where there is no bias,
            before any penalty; shape ``(p + 1, p + 1)`` for ``p`` coefficients.
        num_rows: rows of the table.
        has_bias: whether the first column of the factor is the column of ones.
        penalty: ridge penalty; inference holds for zero only.
    """

    weight: Tensor
    bias: Tensor
    factor: Tensor
    num_rows: int
    has_bias: bool
    penalty: float

    @property
    def theta(self) -> Tensor:
        """All coefficients in the order of the factor's columns: the bias first, if any."""
        return torch.cat([self.bias.reshape(1), self.weight]) if self.has_bias else self.weight


def num_rows(R: Tensor) -> int:
    """Rows of the table behind a factor of ``[1 X y]``: the squared length of the column of ones."""
    return round(R[0, 0].item() ** 2)


def solve(
    R: Tensor, bias: bool = True, ridge: float = 0.0, scale: Tensor | None = None, minimum_norm: bool = False
) -> Solution:
    """Coefficients that minimise ``|y - Xw - b|² + ridge |scale * w|²``.

    Args:
        R: triangular factor of ``[1 X y]``, shape ``(P + 2, P + 2)``.
        bias: whether there is an intercept; it is never penalised.
        ridge: strength of the penalty.
        scale: units of the penalty, shape ``(P,)``: the standard deviations of the columns
            make it the penalty for standardised columns. Ones by default.
        minimum_norm: of the many optima of dependent columns, take the one of the shortest weight.

    Raises:
        RankDeficientError: the columns are linearly dependent, there is no penalty, and no ``minimum_norm``.
    """
    count = num_rows(R)
    factor = R if bias else triangularize(R[:, 1:])
    penalised = factor
    if ridge:
        units = torch.ones(R.shape[0] - 2, dtype=R.dtype) if scale is None else scale
        rows = torch.diag(torch.cat([units.new_zeros(int(bias)), ridge**0.5 * units, units.new_zeros(1)]))
        penalised = triangularize(torch.cat([factor, rows]))
    dependent = dependent_columns(penalised)
    if dependent and not minimum_norm:
        raise RankDeficientError([column - int(bias) for column in dependent])
    R, target = penalised[:-1, :-1], penalised[:-1, -1:]
    theta = _shortest(R, target, bias) if dependent else torch.linalg.solve_triangular(R, target, upper=True)
    theta = theta.squeeze(1)
    weight = theta[1:] if bias else theta
    return Solution(weight, theta[0] if bias else theta.new_zeros(()), factor, count, bias, ridge)


def _shortest(R: Tensor, target: Tensor, bias: bool) -> Tensor:
    """Of all coefficients that solve ``R θ = target`` best, those of the shortest weight, shape ``(p, 1)``."""
    norms = _column_norms(R)
    U, singular, V = torch.linalg.svd(R / norms)
    kept = _kept(singular)
    theta: Tensor = V[kept].mT @ (U[:, kept].mT @ target / singular[kept, None]) / norms[:, None]
    free = (V[~kept] / norms).mT  # directions that change no prediction
    theta -= free @ torch.linalg.lstsq(free[int(bias) :], theta[int(bias) :]).solution
    return theta


def unique_solution(R: Tensor, bias: bool) -> Solution | None:
    """The optimum of a factor of ``[1 X y]``; None where the rows do not determine one."""
    if num_rows(R) < len(R) - 2 + int(bias):
        return None
    try:
        return solve(R, bias)
    except RankDeficientError:
        return None


def _column_norms(columns: Tensor) -> Tensor:
    """Lengths, to scale each column to length 1 by, which no unit of measure can change; 1 for a column of zeros."""
    norms = columns.norm(dim=0)
    return torch.where(norms > 0, norms, 1.0)


def _kept(singular: Tensor) -> Tensor:
    """Which singular values of columns of length 1 are not zero but for rounding."""
    return singular > RANK_TOLERANCE * len(singular) * singular.max()


def dependent_columns(factor: Tensor) -> list[int]:
    """Indices of the columns that take part in a linear dependence; empty at full rank."""
    columns = factor[:-1, :-1]
    _, singular, V = torch.linalg.svd(columns / _column_norms(columns))
    null = V[~_kept(singular)]
    return torch.nonzero((null.abs() > 1e-6).any(dim=0)).flatten().tolist()


def matrix_rank(factor: Tensor) -> int:
    """Rank of the coefficient columns, judged after scaling each to length 1."""
    columns = factor[:-1, :-1]
    return int(_kept(torch.linalg.svdvals(columns / _column_norms(columns))).sum())


def condition_number(factor: Tensor) -> float:
    """Ratio of the largest to the smallest singular value of the coefficient columns, in their own units."""
    singular = torch.linalg.svdvals(factor[:-1, :-1])
    return float(singular[0] / singular[-1])


def column_std(R: Tensor) -> Tensor:
    """Population standard deviations of the columns of X, shape ``(P,)``, from a factor of ``[1 X y]``."""
    deviations: Tensor = R[1:, 1:-1].norm(dim=0)
    return deviations / abs(R[0, 0])


def residual_sum_of_squares(R: Tensor, weight: Tensor, bias: Tensor) -> float:
    """``|y - Xw - b|²`` for any coefficients, without the table.

    Args:
        R: triangular factor of ``[1 X y]``.
        weight: shape ``(P,)``.
        bias: shape ``()``.
    """
    v = torch.cat([bias.reshape(1), weight, -bias.new_ones(1)])
    return float((R @ v).square().sum())


def profile(R: Tensor, columns: list[int], bias: bool) -> Tensor:
    """Factor ``G`` of the sum of squared residuals over some coefficients, the others each time at their best.

    ``|G (v, -1)|²`` is its least value where these coefficients are ``v``.

    Args:
        R: triangular factor of ``[1 X y]``.
        columns: of the coefficients in R: the bias is 0, the weights begin at 1.
        bias: whether there is an intercept; else it is zero.

    Returns:
        Shape ``(c + 1, c + 1)`` for ``c`` coefficients.
    """
    others = [column for column in range(int(not bias), len(R) - 1) if column not in columns]
    return triangularize(R[:, [*others, *columns, len(R) - 1]])[len(others) :, len(others) :]


def total_sum_of_squares(R: Tensor, centred: bool = True) -> float:
    """``|y - ȳ|²``, or ``|y|²`` where not centred, from a factor of ``[1 X y]``."""
    return float(R[int(centred) :, -1].square().sum())
