"""Standardised columns, of mean 0 and standard deviation 1, and the way back to the table's own units."""

from typing import NamedTuple

import torch
from torch import Tensor

from linreg_pl.functional.factors import triangular_factor
from linreg_pl.functional.least_squares import column_std


class Scaling(NamedTuple):
    """What is subtracted from the columns of X, and what they are then divided by; both of shape ``(P,)``."""

    mean: Tensor
    scale: Tensor

    def standardize(self, X: Tensor) -> Tensor:
        """Return ``(X - mean) / scale``, computed in the more precise of their dtypes, which is float64 for moments.

        Args:
            X: raw features, shape ``(n, P)``.
        """
        return (X - self.mean.to(X.device)).mul_(1 / self.scale.to(X.device))

    def invert(self, X: Tensor) -> Tensor:
        """Return ``X * scale + mean``: the raw features, float64, shape ``(n, P)``."""
        return X.double() * self.scale.to(X.device) + self.mean.to(X.device)

    def unscale_coefficients(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn coefficients of standardised columns into coefficients of the raw ones.

        ``((x - mean) / scale) w + b  =  x (w / scale) + (b - mean (w / scale))``

        Args:
            weight: shape ``(P,)``.
            bias: a scalar.

        Returns:
            Weight ``(P,)`` and bias ``()``, float64.

        Example:
            >>> scaling = Scaling(torch.tensor([10.0]).double(), torch.tensor([2.0]).double())
            >>> weight, bias = scaling.unscale_coefficients(torch.tensor([4.0]), torch.tensor(1.0))
            >>> weight.item(), bias.item()
            (2.0, -19.0)
        """
        weight = weight.double() / self.scale
        return weight, bias.double() - self.mean @ weight


def column_scaling(R: Tensor) -> Scaling:
    """Mean and population standard deviation of every column of X.

    Args:
        R: triangular factor of ``[1 X y]``, shape ``(P + 2, P + 2)``; of weighted rows, the moments are weighted.
    """
    return Scaling(R[0, 1:-1] / R[0, 0], column_std(R))


def rough_scaling(X: Tensor, y: Tensor, weight: Tensor | None = None) -> Scaling:
    """Scaling by the moments of some rows ``(n, P)``, of their dtype; of use also where they have one value only."""
    mean, scale = column_scaling(triangular_factor(X, y, weight))
    one_value = scale <= 2**-40 * mean.abs()
    scale = torch.where(one_value, torch.where(mean == 0, 1.0, mean.abs()), scale)
    return Scaling(mean.to(X.dtype), scale.to(X.dtype))
