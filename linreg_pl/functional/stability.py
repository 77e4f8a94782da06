"""The largest step at which SGD is stable.

On the half squared error a step is ``δ ← (I - lr A) δ + noise``, with δ the distance to the
optimum and ``A = ZᵀZ/B`` the curvature of the mini-batch, ``Z = [X 1]``. The mean of |δ|²
shrinks in every direction as long as ``lr < 2 / λmax(E[A]⁻¹ E[A²])``: this is
2 / λmax of the curvature when a mini-batch is the whole table, and less the smaller and
the more unequal the mini-batches are (Défossez and Bach 2015, Averaged Least-Mean-Squares:
Bias-Variance Trade-offs and Optimal Sampling Distributions, section 2).
"""

import torch
from torch import Tensor


def largest_stable_lr(A: Tensor) -> tuple[float, Tensor]:
    """Largest lr at which the mean squared distance to the optimum does not grow.

    Args:
        A: curvatures of a sample of mini-batches, shape ``(k, d, d)``, float64.

    Returns:
        The step size (for the half squared error), and the direction that breaks first,
        shape ``(d,)``, as shares that sum to 1; infinity where there is no curvature.
    """
    mean, square = A.mean(dim=0), (A @ A).mean(dim=0)
    values, vectors = torch.linalg.eigh(mean)
    seen = values > values[-1].clamp(min=0) * 1e-12  # directions that the mini-batches say something about
    if not seen.any():
        return torch.inf, torch.zeros_like(values)
    whitened = vectors[:, seen] / values[seen].sqrt()
    growth, directions = torch.linalg.eigh(whitened.T @ square @ whitened)
    direction = (mean @ (whitened @ directions[:, -1])).square()
    return 2 / growth[-1].item(), direction / direction.sum()
