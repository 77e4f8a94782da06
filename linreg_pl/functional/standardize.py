"""From a table's own units to columns of mean 0 and standard deviation 1, and back."""

from torch import Tensor


def column_moments(X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of every column.

    Args:
        X: features, shape ``(n, P)``.

    Returns:
        Two float64 tensors of shape ``(P,)``.
    """
    X = X.double()
    return X.mean(dim=0), X.std(dim=0, correction=0)


def standardize(X: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return ``(X - mean) / scale``, computed in float64.

    Args:
        X: features in their own units, shape ``(n, P)``.
        mean: shape ``(P,)``.
        scale: shape ``(P,)``, nowhere zero.

    Returns:
        float64, shape ``(n, P)``.
    """
    return (X.double() - mean) / scale


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
