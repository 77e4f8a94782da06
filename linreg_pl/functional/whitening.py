"""Rows seen from a solved least-squares problem: residual, leverage, and coordinates in which columns are orthonormal.

With the factor R of ``[1 X]``, the coordinates of a row x are ``q = R⁻ᵀ x``: over all rows ``Σ q qᵀ = I``, and the
leverage of a row is ``|q|²`` (Hoaglin and Welsch 1978). Under weights w, rows and residuals are those times ``√w``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from linreg_pl.functional.factors import rows_of_a_block
from linreg_pl.functional.least_squares import Solution


class Whitening:
    """Finds the whitened coordinates of rows.

    With a bias, they are those of deviations from the mean, which keeps the digits of a column far from 0.

    Args:
        solution: the optimum over all rows.
        shifted: shifted factor of all rows, ``(P + 3, P + 2)``, which knows the means to more digits than the optimum.

    Attributes:
        shift: what is subtracted from X and y, shape ``(P + 1,)``; None if nothing.
        matrix: ``q = matrix @ a`` for a row a of ``[1 X-shift]``, or of ``X`` without a bias; shape ``(p, p)``.
        fitting: ``y - shift - fitting @ a`` is the residual, shape ``(p,)``.
    """

    def __init__(self, solution: Solution, shifted: Tensor) -> None:
        R, bias = solution.factor, int(solution.has_bias)
        self.solution = solution
        self.shift = shifted[-1, 1:] if bias and shifted[-1].any() else None
        self.means = shifted[0, 1:] / shifted[0, 0]  # of the columns less the shift
        columns = R[bias:-1, bias:-1]
        inverse = torch.linalg.solve_triangular(columns, torch.eye(len(columns), dtype=R.dtype), upper=True)
        self.inverse = torch.block_diag(*[1 / R[:1, :1].abs()] * bias, inverse)  # of [1 X], X less its means
        self.matrix, self.fitting = self.inverse.mT.clone(), solution.weight
        if bias:
            self.matrix[1:, 0] = -(self.matrix[1:, 1:] @ self.means[:-1])
            intercept = self.means[-1] - solution.weight @ self.means[:-1]
            self.fitting = torch.cat([intercept[None], solution.weight])

    def coefficient_root(self, root: Tensor) -> Tensor:
        """Return a root of the coefficients' covariance from one of the covariance in whitened coordinates."""
        found: Tensor = self.inverse @ root
        if self.solution.has_bias:  # of the bias for columns as they are, not their deviations
            means = self.means if self.shift is None else self.means + self.shift
            found[0] -= means[:-1] @ found[1:]
        return found


class WhitenedBlock:
    """A block of rows, to be iterated once: it yields ``rows, q`` of some rows at a time, ``q`` of shape ``(p, n)``.

    The same memory is used again for each ``q``.

    Args:
        whitening: by the factor of all rows.
        X: raw features, shape ``(n, P)``.
        y: targets, shape ``(n, 1)``.
        weight: weights, shape ``(n, 1)``.
        leverages: whether they are wanted.

    Attributes:
        residual: times ``√w``, shape ``(n,)``; known where ``rows`` have been yielded.
        leverage: the same, if wanted.
    """

    def __init__(
        self, whitening: Whitening, X: Tensor, y: Tensor, weight: Tensor | None = None, *, leverages: bool = True
    ) -> None:
        self.whitening, self.X, self.weight = whitening, X, weight
        self.root = None if weight is None else weight[:, 0].double().sqrt()
        self.residual = y[:, 0].to(torch.float64, copy=True)
        if whitening.shift is not None:
            self.residual -= whitening.shift[-1]
        self.leverage = torch.empty_like(self.residual) if leverages else None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some rows at a time, with as few operations as can be, for each takes a while to begin."""
        by = self.whitening
        bias, p = int(by.solution.has_bias), len(by.matrix)
        size = min(rows_of_a_block(p + 1), len(self.X))
        memory = by.matrix.new_empty(2, p * size)
        for start in range(0, len(self.X), max(size, 1)):
            rows = slice(start, min(start + size, len(self.X)))
            residual, count = self.residual[rows], rows.stop - start
            A, q = memory[:, : p * count].view(2, p, count)
            A[:bias] = 1
            A[bias:] = self.X[rows].mT
            if by.shift is not None:
                A[bias:] -= by.shift[:-1, None]
            residual.addmv_(A.mT, by.fitting, alpha=-1)
            torch.mm(by.matrix, A, out=q)
            if self.root is not None:
                residual *= self.root[rows]
                q *= self.root[rows]
            if self.leverage is not None:
                torch.sum(torch.mul(q, q, out=A), dim=0, out=self.leverage[rows])
            yield rows, q
