"""Elastic net by coordinate descent from a triangular factor, and cross-validation from the factors of folds.

The penalised problem has the same solution for the rows of the triangular factor as for those of the table. With one
factor per fold, those of the other folds merge into the factor of a training set, and ``|R (θ, -1)|²`` is the squared
error of any θ on a fold: cross-validation needs no further pass over the table.

Sources: Zou and Hastie 2005; Friedman, Hastie and Tibshirani 2010 (coordinate descent, warm starts); gap: Mairal 2010,
as in scikit-learn; degrees of freedom: Zou, Hastie and Tibshirani 2007; one standard error: Breiman et al. 1984, 3.4.3.
"""

from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from linreg_pl.functional.factors import merge_shifted, triangularize, unshifted
from linreg_pl.functional.least_squares import column_std, weight_columns

Rule = Literal["min", "1se"]
SMALLEST = 1e-3  # penalty of a path, beside the largest of the lasso
RIDGE_LIKE = 1e-3  # l1_ratio below which paths begin as if it were this: without an L1 part no penalty is the largest


class Problem:
    """The penalised problem of a table: ``|c - B v|²/2 + penalty (l1_ratio |v|₁ + (1 - l1_ratio)/2 |v|²)``.

    Args:
        factor: shifted triangular factor of the rows, ``(P + 3, P + 2)``.
        bias: whether there is an intercept, which is free.
        standardize: whether the penalty is on the weights of columns of standard deviation 1.

    Attributes:
        B: columns, with a bias those of deviations from the mean, each divided by its scale, shape ``(P, P)``.
        c: the target, shape ``(P,)``.
        scale: shape ``(P,)``; the weights are ``v / scale``. Infinite for a column without variation.
    """

    def __init__(self, factor: Tensor, bias: bool, standardize: bool) -> None:
        R = factor[:-1] if bias else unshifted(factor)
        self.bias, self.factor, self.shift = bias, R, factor[-1]
        solved = R if bias else triangularize(R[:, 1:])
        columns = weight_columns(unshifted(factor) if bias else solved, bias)
        self.scale = column_std(R) if standardize else torch.ones(len(columns), dtype=R.dtype)
        self.scale = torch.where((self.scale > 0) & (columns.norm(dim=0) > 0), self.scale, torch.inf)
        self.B = columns / R[0, 0] / self.scale
        self.c = solved[int(bias) : -1, -1] / R[0, 0]

    def penalties(self, l1_ratio: float, count: int) -> Tensor:
        """Return so many penalties of a path, the largest first; there, with an L1 part, all weights are 0."""
        lasso = (1 + 1e-12) * float((self.B.mT @ self.c).abs().max())
        return lasso * torch.from_numpy(np.geomspace(1 / max(l1_ratio, RIDGE_LIKE), SMALLEST, count))

    def coefficients(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights ``(…, P)`` and biases ``(…)`` for raw columns, from solutions ``v`` of shape ``(…, P)``."""
        w = v / self.scale
        if not self.bias:
            return w, w.new_zeros(w.shape[:-1])
        mean = self.factor[0, 1:] / self.factor[0, 0]
        return w, mean[-1] + self.shift[-1] - (w * mean[:-1]).sum(-1) - (w * self.shift[1:-1]).sum(-1)

    def path(self, penalties: Tensor, l1_ratio: float, nonnegative: bool = False) -> Tensor:
        """Solve for each penalty; return solutions ``v`` of shape ``(L, P)``.

        Args:
            penalties: shape ``(L,)``, best the largest first.
            l1_ratio: 1 for the lasso, 0 for ridge.
            nonnegative: whether weights may not be below 0.
        """
        if l1_ratio == 0 and not nonnegative:
            return self._ridge_path(penalties)
        from linreg_pl.functional.coordinate_descent import solve_path

        l1, l2 = (penalties * share for share in (l1_ratio, 1 - l1_ratio))
        return torch.from_numpy(solve_path(self.B.numpy(), self.c.numpy(), l1.numpy(), l2.numpy(), nonnegative))

    def _ridge_path(self, penalties: Tensor) -> Tensor:
        U, s, V = torch.linalg.svd(self.B)
        solutions: Tensor = torch.where(s > 0, s / (s.square() + penalties[:, None]), 0.0) * (U.mT @ self.c) @ V
        if not (penalties > 0).all():  # least squares, whatever the units of the columns are
            lengths = self.B.norm(dim=0)
            lengths = torch.where(lengths > 0, lengths, 1.0)
            U, s, V = torch.linalg.svd(self.B / lengths)
            shortest = torch.where(s > 1e-13 * s.max(), 1 / s, 0.0) * (U.mT @ self.c) @ V / lengths
            solutions = torch.where(penalties[:, None] > 0, solutions, shortest)
        return solutions

    def gaps(self, v: Tensor, penalties: Tensor, l1_ratio: float, nonnegative: bool = False) -> Tensor:
        """Return duality gaps of solutions of `path`, as shares of ``|c|²``, shape ``(L,)``.

        Without an L1 part it is the bound by strong convexity, or without any penalty the square of the gradient for
        columns of length 1.
        """
        l1, l2 = (penalties * share for share in (l1_ratio, 1 - l1_ratio))
        r = self.c - v @ self.B.mT
        slopes = r @ self.B - l2[:, None] * v
        signed = slopes if nonnegative else slopes.abs()
        largest, size = signed.amax(dim=1), max(float(self.c.square().sum()), 1e-300)
        free = torch.where(v == 0, slopes.clamp(min=0), slopes) if nonnegative else slopes
        lengths = self.B.norm(dim=0)
        of_gradient = torch.where(lengths > 0, free / lengths, 0.0).square().sum(dim=1)
        bound = torch.where(l2 > 0, free.square().sum(dim=1) / (2 * l2), of_gradient)
        share = torch.where(largest > l1, l1 / largest, 1.0)
        squares = r.square().sum(dim=1) + l2 * v.square().sum(dim=1)
        gap = 0.5 * (1 + share**2) * squares + l1 * v.abs().sum(dim=1) - share * (r @ self.c)
        return torch.where(l1 > 0, gap, bound) / size

    def degrees_of_freedom(self, v: Tensor, l2: float) -> float:
        """Return the effective number of coefficients of a solution ``(P,)``, the bias included."""
        s = torch.linalg.svdvals(self.B[:, v != 0])
        return float((s.square() / (s.square() + l2)).sum()) + self.bias


class CrossValidation(NamedTuple):
    """Cross-validated errors of a path."""

    penalties: Tensor  # shape (L,), the largest first
    mse: Tensor  # mean squared error on the rows left out, each fold by its rows, shape (L,)
    se: Tensor  # standard error of mse over the folds, shape (L,)
    num_folds: int  # that have rows

    def choose(self, rule: Rule) -> int:
        """Return the place of the smallest error, or of the largest penalty within one standard error of it."""
        best = int(self.mse.argmin())
        return best if rule == "min" else int((self.mse <= self.mse[best] + self.se[best]).nonzero()[0])


def cross_validate(
    factors: Tensor, penalties: Tensor, l1_ratio: float, bias: bool, standardize: bool, nonnegative: bool = False
) -> CrossValidation:
    """Fit a path to all folds but one, and measure it on the one, for each.

    Args:
        factors: shifted factors of the folds, shape ``(K, P + 3, P + 2)``; weights of rows are 1 on average.
        penalties: shape ``(L,)``.
        l1_ratio: see `Problem.path`.
        bias: see `Problem`.
        standardize: whether columns are, by the rows that are fitted to.
        nonnegative: see `Problem.path`.

    Raises:
        ValueError: fewer than two folds have rows.
    """
    factors = factors[factors[:, 0, 0] != 0]
    if len(factors) < 2:
        raise ValueError("fewer than two folds have rows")

    def together(*two: Tensor) -> Tensor:
        return merge_shifted(torch.stack(two))

    before = accumulate(factors[:-1], together, initial=factors[0] * 0)
    after = accumulate(factors.flip(0)[:-1], together, initial=factors[0] * 0)
    errors = []
    for fold, *others in zip(factors, before, reversed([*after]), strict=True):
        problem = Problem(together(*others), bias, standardize)
        errors.append(_squared_errors(fold, *problem.coefficients(problem.path(penalties, l1_ratio, nonnegative))))
    sizes = factors[:, 0, 0].square()
    each, share = torch.stack(errors) / sizes[:, None], (sizes / sizes.sum())[:, None]
    mse = (share * each).sum(dim=0)
    se = ((share * (each - mse).square()).sum(dim=0) / (len(factors) - 1)).sqrt()
    return CrossValidation(penalties, mse, se, len(factors))


def _squared_errors(factor: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``|y - Xw - b|²`` of several coefficients, ``(L, P)`` and ``(L,)``, on the rows of a shifted factor."""
    R, shift = factor[:-1], factor[-1]
    moved = bias + weight @ shift[1:-1] - shift[-1]  # the bias for columns and target less the shift
    theta = torch.cat([moved[:, None], weight, -torch.ones_like(moved)[:, None]], dim=1)
    return (theta @ R.mT).square().sum(dim=1)
