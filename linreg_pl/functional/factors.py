"""Triangular factors of tables, a block at a time, by Householder QR, without normal equations.

The triangular factor R of ``A = [1 X y]`` contains all that least squares needs of a table:
``|A v| = |R v|`` for every vector v. It is computed block by block, as the factor of two
stacked blocks is the factor of their stacked factors (Golub and Van Loan, Matrix
Computations, 5.2 and 6.5; tall-skinny QR: Demmel et al. 2012), and it is as accurate as
Householder QR of the whole table (Higham, Accuracy and Stability of Numerical
Algorithms, theorem 20.3). Factors can be merged in any order, over batches and processes.

Many rows of ten columns or more are factored faster by preconditioned Cholesky QR, which is as accurate where it is
used: see `_factor_by_whitening`.

A column of mean 1e8 and deviation 1 would lose eight digits to the column of ones. So each block is factored after a
row near its own has been subtracted, ``[1 X-c y-c]`` (shifted data: Chan, Golub and LeVeque 1983, Algorithms for
Computing the Sample Variance), and its factor carries this shift along in a last row ``[0 c]`` until all are merged.
As ``[1 X y] = [1 X-c y-c] T`` with a unit triangular T, the factor of the raw columns differs in its first row alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SAMPLE = 256  # rows that tell how far apart the values of a column are
WIDE, MANY = 10, 8  # columns and blocks for which it pays to whiten
SINGULAR = 1e-10  # distance of a column of the sample to those before it, as a share of its length
NEARLY_ORTHOGONAL = 3.0  # largest ratio of singular values of a sample of features that are left as they are
WELL_CONDITIONED = 100.0  # largest ratio of squared lengths for which products lose no digit that counts


def triangular_factor(X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the triangular factor of ``[1 X y]``, each row multiplied by the square root of its weight.

    Args:
        X: features, shape ``(n, P)``, of any floating dtype.
        y: target, shape ``(n, 1)``.
        weight: weight of each row, shape ``(n, 1)``, not negative; ones by default.

    Returns:
        Upper triangular, float64, shape ``(P + 2, P + 2)``; rows beyond ``n`` are zero.
    """
    return unshifted(shifted_factor(X, y, weight))


def shifted_factor(X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the factor of ``[1 X-c y-c]`` and below it ``[0 c]``: `triangular_factor`, shape ``(P + 3, P + 2)``."""
    width = X.shape[1] + 2
    size = min(rows_of_a_block(width), len(X))
    workspace = torch.empty(width * size, dtype=torch.float64, device=X.device)
    shift = workspace.new_zeros(width)
    if len(X):
        shift[1:] = _row_near(torch.cat([X[:SAMPLE], y[:SAMPLE]], dim=1).double())
    shifts = bool(shift.any())

    def columns_of(rows: slice) -> Tensor:
        """Return some rows of the matrix as columns ``(P + 2, n)``, in column-major order, as LAPACK expects."""
        features, target = X[rows], y[rows]
        columns = workspace[: width * len(target)].view(width, -1)
        if shifts and features.dtype == target.dtype == columns.dtype:
            columns[0] = 1
            torch.sub(features.mT, shift[1:-1, None], out=columns[1:-1])
            torch.sub(target.mT, shift[-1:, None], out=columns[-1:])
        else:
            columns[0], columns[1:-1], columns[-1:] = 1, features.mT, target.mT
            if shifts:
                columns[1:] -= shift[1:, None]
        if weight is not None:
            columns *= weight[rows].mT.double().sqrt()
        return columns

    blocks = [slice(start, start + size) for start in range(0, len(X), max(size, 1))]
    factor = None
    if width >= WIDE and len(blocks) >= MANY:
        factor = _factor_by_whitening(columns_of, slice(None, None, -(-len(X) // size)), blocks)
    if factor is None:
        factors = [factor_in_place(columns_of(rows)) for rows in blocks]
        several = torch.cat(factors) if factors else workspace.new_zeros(width, width)
        factor = triangularize(several) if len(factors) > 1 else _padded(several)
    return torch.cat([factor, shift[None]])


def _factor_by_whitening(columns_of: Callable[[slice], Tensor], sample: slice, blocks: list[slice]) -> Tensor | None:
    """Return the factor of many rows, a fifth faster than by Householder QR, or None if digits would be lost.

    With the factor S of a sample, the columns of ``A S⁻¹`` are nearly orthonormal but for their lengths. For such
    columns the Cholesky factor of their products is as accurate as QR (preconditioned Cholesky QR: Yamamoto et al.
    2015; Terao, Ozaki and Ogita 2020), and that of A is its product with S. Features that are nearly orthogonal in the
    sample are left as they are; of the target, which they may well explain, what they leave is taken.
    """
    S = factor_in_place(columns_of(sample))
    norms = S.norm(dim=0)
    if len(S) < S.shape[1] or not (S.diagonal().abs() > SINGULAR * norms).all():
        return None
    orthogonal = bool(torch.linalg.cond(S[:-1, :-1] / norms[:-1]) <= NEARLY_ORTHOGONAL)
    if orthogonal:
        fitted = torch.linalg.solve_triangular(S[:-1, :-1], S[:-1, -1:], upper=True)
        S = torch.eye(len(S), dtype=S.dtype, device=S.device)
        S[:-1, -1:] = fitted
    products = torch.zeros_like(S)
    for rows in blocks:
        whitened = columns_of(rows)
        if orthogonal:
            whitened[-1:] -= fitted.mT @ whitened[:-1]
        else:
            torch.linalg.solve_triangular(S.mT, whitened, upper=False, out=whitened)
        products.addmm_(whitened, whitened.mT)
    if not products.isfinite().all():
        return None
    norms = products.diagonal().sqrt()
    squares = torch.linalg.eigvalsh(products / norms / norms[:, None])
    if not squares[-1] <= WELL_CONDITIONED * squares[0]:
        return None
    factor: Tensor = torch.linalg.cholesky(products, upper=True) @ S
    return factor.triu()


def rows_of_a_block(width: int) -> int:
    """Return how many rows of so many columns to factor at once, so that they stay in a core's cache."""
    return min(max(2**11, 2**20 // width**2), 2**15)  # measured


def factor_in_place(columns: Tensor) -> Tensor:
    """Return the triangular factor of some columns ``(k, n)``, which are overwritten: ``(min(k, n), k)``."""
    A, tau = columns.mT, columns.new_empty(min(columns.shape))
    torch.geqrf(A, out=(A, tau))
    return A[: len(columns)].triu()


def _row_near(rows: Tensor) -> Tensor:
    """Return the first of some rows, rounded so coarsely that subtracting it costs no digit.

    It has 0 for a column about as far from 0 as its values are apart, where there is no digit to be won.
    """
    first, (low, high) = rows[0], torch.aminmax(rows, dim=0)
    far = first.abs() >= high - low
    if not far.any():
        return torch.zeros_like(first)
    unit = (high / 4 - low / 4).log2().floor().exp2()  # a power of two; 0 if the column has one value only
    return torch.where(far, torch.where(unit > 0, (first / unit).round() * unit, first), 0.0)


def unshifted(factor: Tensor) -> Tensor:
    """Return the factor of ``[1 X y]``, ``(P + 2, P + 2)``, from a shifted one."""
    R = factor[:-1].clone()
    R[0] += R[0, 0] * factor[-1]
    return R


def merge_shifted(factors: Tensor) -> Tensor:
    """Return the shifted factor of several tables together: ``(k, P + 3, P + 2)`` to ``(P + 3, P + 2)``."""
    R, shifts = factors[:, :-1].clone(), factors[:, -1]
    shift = shifts[R[:, 0, 0].abs().argmax()]  # of the table with most rows
    R[:, 0] += R[:, 0, :1] * (shifts - shift)
    return torch.cat([triangularize(R.flatten(end_dim=1)), shift[None]])


def merge_folds(factors: Tensor) -> Tensor:
    """Return the factors of the folds of several tables together: ``(k, K, P + 3, P + 2)`` to ``(K, P + 3, P + 2)``."""
    return torch.stack([merge_shifted(of_fold) for of_fold in factors.transpose(0, 1)])


def triangularize(A: Tensor) -> Tensor:
    """Return the triangular factor of any matrix ``(n, k)``, padded with zeros to ``(k, k)``."""
    return _padded(torch.linalg.qr(A, mode="r").R)


def _padded(R: Tensor) -> Tensor:
    rows, columns = R.shape
    return R if rows == columns else torch.cat([R, R.new_zeros(columns - rows, columns)])


def merge_factors(factors: Tensor) -> Tensor:
    """Return the factor of several tables together: ``(k, P + 2, P + 2)`` to ``(P + 2, P + 2)``."""
    return unshifted(merge_shifted(torch.stack(list(map(shifted, factors)))))


def shifted(R: Tensor) -> Tensor:
    """Return a factor of ``[1 X y]`` as one that is shifted by the means of the columns."""
    R, means = R.clone(), R[:1] / torch.where(R[0, 0] == 0, 1.0, R[0, 0])
    R[0, 1:], means[0, 0] = 0, 0
    return torch.cat([R, means])
