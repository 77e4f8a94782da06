"""Elastic-net paths: compiled coordinate descent finds which weights are not 0, and these are then solved for.

Minimised is ``|c - B v|²/2 + l1 |v|₁ + l2/2 |v|²``. This module imports numba.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from linreg_pl.functional.compiled import compiled

Floats = NDArray[np.float64]

LEAST_CHANGE = 1e-18  # of predictions, squared, as a share of |c|², below which descent ends
ROUNDS = 2  # of descent before the first attempt to solve
MAX_ROUNDS = 2**12
WITHIN = 10  # sweeps over the weights that are not 0, for each over all of them
SINGULAR = 1e-11  # distance of a column to those before it, as a share of its length
ROUNDING = 1e-14  # of slopes, as a share of the lengths of column and target
SUMS = ("reassoc", "contract")  # lets sums vectorise


@compiled(*SUMS)
def _sweep(
    rows: Floats, norms: Floats, r: Floats, v: Floats, l1: float, l2: float, nonnegative: bool, all_columns: bool
) -> float:
    """Improve each weight in turn; return the largest change of predictions, squared."""
    largest = 0.0
    for j in range(len(v)):
        before = v[j]
        if norms[j] == 0.0 or (before == 0.0 and not all_columns):
            continue
        pull = norms[j] * before
        for k in range(len(r)):
            pull += rows[j, k] * r[k]
        size = (pull if nonnegative else abs(pull)) - l1
        v[j] = 0.0 if size <= 0.0 else np.copysign(size, pull) / (norms[j] + l2)
        if v[j] != before:
            change = before - v[j]
            for k in range(len(r)):
                r[k] += change * rows[j, k]
            largest = max(largest, change**2 * norms[j])
    return largest


@compiled(*SUMS)
def _descend(
    rows: Floats,
    norms: Floats,
    r: Floats,
    v: Floats,
    l1: float,
    l2: float,
    nonnegative: bool,
    rounds: int,
    least: float,
) -> None:
    """Descend for some rounds, or until predictions hardly change; ``v`` and its residual ``r`` are overwritten."""
    for _ in range(rounds):
        if _sweep(rows, norms, r, v, l1, l2, nonnegative, True) <= least:
            return
        for _ in range(WITHIN):
            if _sweep(rows, norms, r, v, l1, l2, nonnegative, False) <= least:
                break


@compiled(*SUMS)
def _refine(R: Floats, some: Floats, c: Floats, pull: Floats, l2: float) -> Floats:
    """Solve ``(some someᵀ + l2) v = some c - pull`` by R; twice, for R'R alone would lose digits (Björck 1987)."""
    size = len(pull)
    v = np.zeros(size)
    for _ in range(2):
        r = c.copy()
        for j in range(size):
            for k in range(len(c)):
                r[k] -= v[j] * some[j, k]
        x = -pull - l2 * v
        for j in range(size):
            for k in range(len(c)):
                x[j] += some[j, k] * r[k]
        for j in range(size):
            for k in range(j):
                x[j] -= R[k, j] * x[k]
            x[j] /= R[j, j]
        for j in range(size - 1, -1, -1):
            for k in range(j + 1, size):
                x[j] -= R[j, k] * x[k]
            x[j] /= R[j, j]
        v += x
    return v


def _solve(rows: Floats, norms: Floats, c: Floats, v: Floats, l1: float, l2: float, nonnegative: bool) -> bool:
    """Solve for the weights that are not 0, given their signs; return whether this is the solution.

    Where a weight would change its sign, or columns depend on each other, ``v`` is moved until one weight is 0. That
    never raises the objective.
    """
    rounding = ROUNDING * np.sqrt(norms * (c @ c))

    def pulls_no_other(left: NDArray[np.intp], r: Floats) -> bool:
        slopes = rows @ r
        slopes[left] = 0.0
        return bool(((slopes if nonnegative else np.abs(slopes)) <= l1 * (1 + 1e-9) + rounding).all())

    while len(left := np.flatnonzero(v)):
        some, signs = rows[left], np.sign(v[left])
        stacked = np.concatenate([some.T, np.sqrt(l2) * np.eye(len(left))]) if l2 else some.T
        sizes = np.sqrt(norms[left] + l2)
        R = lapack.dgeqrf(stacked)[0][: len(left)]
        if len(R) < len(left) or (np.abs(R.diagonal()) <= SINGULAR * sizes).any():
            move = np.linalg.svd(some.T / sizes)[2][-1] / sizes  # changes no prediction
            move *= -1.0 if signs @ move > 0 else 1.0
        else:
            found = _refine(np.ascontiguousarray(R), some, c, l1 * signs, l2)
            if (found * signs > 0).all():
                v[left] = found
                return pulls_no_other(left, c - found @ some)
            move = found - v[left]
        shares = np.divide(-v[left], move, out=np.full(len(left), np.inf), where=move * signs < 0)
        first = shares.argmin()
        v[left] += shares[first] * move
        v[left[first]] = 0.0
        v[left[np.sign(v[left]) != signs]] = 0.0
    return pulls_no_other(left, c)


def solve_path(B: Floats, c: Floats, l1: Floats, l2: Floats, nonnegative: bool) -> Floats:
    """Solve for pairs of penalties, each from the solution before.

    Shapes are B ``(m, P)``, c ``(m,)``, l1 and l2 ``(L,)``, solutions ``(L, P)``. If ``nonnegative``, none is below 0.
    """
    rows = np.ascontiguousarray(B.T)
    norms = np.square(rows).sum(axis=1)
    v, least = np.zeros(len(rows)), LEAST_CHANGE * float(c @ c)
    solutions = np.zeros((len(l1), len(rows)))
    for place, penalties in enumerate(zip(l1.tolist(), l2.tolist(), strict=True)):
        rounds = ROUNDS
        while True:
            _descend(rows, norms, c - v @ rows, v, *penalties, nonnegative, rounds, least)
            if _solve(rows, norms, c, v, *penalties, nonnegative) or rounds >= MAX_ROUNDS:
                break
            rounds *= 2
        solutions[place] = v
    return solutions
