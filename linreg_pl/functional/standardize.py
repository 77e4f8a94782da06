"""From a table's own units to columns of mean 0 and standard deviation 1, and back."""

import torch
from torch import Tensor


def summarize(X: Tensor) -> Tensor:
    """Number of rows, mean and sum of squared deviations of every column of a block.

    Args:
        X: features, shape ``(n, P)``.

    Returns:
        float64, shape ``(3, P)``.
    """
    X = X.double()
    mean = X.sum(dim=0) / max(len(X), 1)
    return torch.stack([torch.full_like(mean, len(X)), mean, (X - mean).square_().sum(dim=0)])


def merge(first: Tensor, second: Tensor) -> Tensor:
    """Summary of two blocks together (Chan, Golub and LeVeque 1983), shape ``(3, P)``."""
    count = first[0] + second[0]
    share = second[0] / count.clamp(min=1)
    step = second[1] - first[1]
    return torch.stack([count, first[1] + share * step, first[2] + second[2] + first[0] * share * step.square()])


def column_moments(summary: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of every column.

    Args:
        summary: shape ``(3, P)``.

    Returns:
        Two float64 tensors of shape ``(P,)``.
    """
    count, mean, deviation = summary
    return mean, (deviation / count).sqrt()


def standardize(X: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return ``(X - mean) / scale``, computed in float64.

    Args:
        X: features in their own units, shape ``(n, P)``.
        mean: shape ``(P,)``.
        scale: shape ``(P,)``, nowhere zero.

    Returns:
        float64, shape ``(n, P)``.
    """
    return X.to(torch.float64, copy=True).sub_(mean).div_(scale)


def to_own_units(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Turn coefficients for standardised columns into coefficients for the columns themselves.

    ``((x - mean) / scale) w + b  =  x (w / scale) + (b - mean (w / scale))``

    Args:
        weight: shape ``(P,)``.
        bias: a scalar.
        mean: shape ``(P,)``.
        scale: shape ``(P,)``.

    Returns:
        Weight ``(P,)`` and bias ``()`` in the table's units, float64.
    """
    weight = weight.double() / scale
    return weight, bias.double() - mean @ weight
