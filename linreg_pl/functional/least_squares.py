"""Least squares, solved from the triangular factor of a table (`linreg_pl.functional.factors`)."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from linreg_pl.functional.factors import triangularize

RANK_TOLERANCE = 64 * torch.finfo(torch.float64).eps  # is multiplied by the number of columns


class RankDeficientError(ValueError):
    """The columns are linearly dependent, so the optimum is not unique.

    Attributes:
        dependencies: for each linear dependence the indices of its columns; the column of ones has index -1. Without
            the first column of each, the others are independent.
    """

    def __init__(self, dependencies: list[list[int]]) -> None:
        super().__init__(f"columns {' and '.join(map(str, dependencies))} are linearly dependent")
        self.dependencies = dependencies


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
    factor = augmented = R if bias else triangularize(R[:, 1:])
    if ridge:
        units = torch.ones(R.shape[0] - 2, dtype=R.dtype) if scale is None else scale
        rows = torch.diag(torch.cat([units.new_zeros(int(bias)), ridge**0.5 * units, units.new_zeros(1)]))
        augmented = triangularize(torch.cat([factor, rows]))
    dependent = dependencies(augmented, bias)
    if dependent and not minimum_norm:
        raise RankDeficientError(dependent)
    columns, target = weight_columns(augmented, bias), augmented[int(bias) : -1, -1:]
    find = _shortest if dependent else partial(torch.linalg.solve_triangular, upper=True)
    weight = find(columns, target).squeeze(1)
    intercept = weight.new_zeros(())
    if bias:  # mean of y minus that of X w
        intercept = (augmented[0, -1] - augmented[0, 1:-1] @ weight) / augmented[0, 0]
    return Solution(weight, intercept, factor, count, bias, ridge)


def _shortest(R: Tensor, target: Tensor) -> Tensor:
    """Return the least-squares solution of ``R w = target`` with the shortest weight vector, shape ``(P, 1)``."""
    norms = _column_norms(R)
    U, singular, V = torch.linalg.svd(R / norms)
    kept = _kept(singular)
    weight: Tensor = V[kept].mT @ (U[:, kept].mT @ target / singular[kept, None]) / norms[:, None]
    free = (V[~kept] / norms).mT  # directions in which predictions do not change
    weight -= free @ torch.linalg.lstsq(free, weight).solution
    return weight


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


def weight_columns(factor: Tensor, has_bias: bool) -> Tensor:
    """Return the factor of the columns of X, ``(P, P)``; with a bias that of their deviations from the mean.

    In those, a column that varies only by the rounding of its mean is zero.
    """
    columns = factor[int(has_bias) : -1, int(has_bias) : -1]
    if not has_bias:
        return columns
    varies = columns.norm(dim=0) > torch.finfo(factor.dtype).eps * factor[0, 1:-1].abs()
    deviations: Tensor = columns * varies
    return deviations


def dependencies(factor: Tensor, has_bias: bool) -> list[list[int]]:
    """Find the linear dependences among the columns of X, and of ones if there is a bias.

    Returns:
        Those of `RankDeficientError`; empty at full rank.
    """
    columns = weight_columns(factor, has_bias)
    norms = _column_norms(columns)
    _, singular, V = torch.linalg.svd(columns / norms)
    null = V[~_kept(singular)]  # directions in which predictions do not change; each gets a column of its own below
    found = []
    for step in range(len(null)):
        candidates = (null[step:].abs() > 1e-3).any(dim=0).nonzero()
        own = int(candidates[-1])  # the last column that can be left out
        pivot = step + int(null[step:, own].abs().argmax())
        null[[step, pivot]] = null[[pivot, step]]
        null[step] /= null[step, own].clone()
        others = torch.arange(len(null)) != step
        null[others] -= null[others][:, own : own + 1] * null[step]
        found.append(own)
    result = []
    for own, direction in zip(found, null, strict=True):
        involved = (direction.abs() > 1e-6).nonzero().flatten().tolist()
        result.append([own, *(column for column in involved if column != own)])
        if has_bias:
            means = (direction / norms * factor[0, 1:-1])[involved]
            if means.sum().abs() > 1e-6 * means.abs().sum():
                result[-1].append(-1)
    return result


def matrix_rank(factor: Tensor, has_bias: bool = True) -> int:
    """Return the rank of the coefficient columns, each scaled to length 1."""
    columns = weight_columns(factor, has_bias)
    return int(has_bias) + int(_kept(torch.linalg.svdvals(columns / _column_norms(columns))).sum())


def condition_number(factor: Tensor) -> float:
    """Return the condition number of the coefficient columns, in their own units."""
    return float(torch.linalg.cond(factor[:-1, :-1]))


def column_std(R: Tensor) -> Tensor:
    """Return the population standard deviations of the columns of X, shape ``(P,)``, from a factor of ``[1 X y]``."""
    deviations: Tensor = R[1:, 1:-1].norm(dim=0)
    return deviations / abs(R[0, 0])


def explains_exactly(R: Tensor, has_bias: bool, mse: float) -> bool:
    """Whether an optimum with this mean squared error leaves nothing but rounding errors."""
    total = total_sum_of_squares(R, has_bias)
    return mse * num_rows(R) <= ((1e-13**2 * total + (2.0**-51 * float(R[0, -1])) ** 2) if total else 0.0)


def standardized_coefficients(R: Tensor, weight: Tensor) -> Tensor:
    """Return weights ``(P,)`` for columns and a target of standard deviation 1, from a factor of ``[1 X y]``."""
    deviations = R[1:, 1:].norm(dim=0)
    standardized: Tensor = weight * deviations[:-1] / deviations[-1]
    return standardized


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
