"""The largest learning rate at which SGD is stable.

On the half squared error a step is ``δ ← (I - lr A) δ + noise``, where δ is the distance to the
optimum and ``A = ZᵀZ/B`` the curvature (Hessian) of the mini-batch, with ``Z = [X 1]``. The mean
of |δ|² shrinks in every direction if ``lr < 2 / λmax(E[A]⁻¹ E[A²])``. For a mini-batch of the
whole table, this is 2 / λmax of the curvature; the bound is smaller for smaller and more unequal
mini-batches (Défossez and Bach 2015, Averaged Least-Mean-Squares: Bias-Variance Trade-offs and
Optimal Sampling Distributions, section 2).
"""

import torch
from torch import Tensor


def largest_stable_lr(A: Tensor) -> tuple[float, Tensor]:
    """Return the largest lr at which the mean squared distance to the optimum does not grow.

    Args:
        A: curvatures of a sample of mini-batches, shape ``(k, d, d)``, float64.

    Returns:
        The learning rate for the half squared error, infinite if there is no curvature; and the
        direction that diverges first, as shares of the coefficients that sum to 1, shape ``(d,)``.
    """
    mean, square = A.mean(dim=0), (A @ A).mean(dim=0)
    values, vectors = torch.linalg.eigh(mean)
    seen = values > values[-1].clamp(min=0) * 1e-12  # directions in which the mini-batches have curvature
    if not seen.any():
        return torch.inf, torch.zeros_like(values)
    whitened = vectors[:, seen] / values[seen].sqrt()
    growth, directions = torch.linalg.eigh(whitened.T @ square @ whitened)
    direction = (mean @ (whitened @ directions[:, -1])).square()
    return 2 / growth[-1].item(), direction / direction.sum()
