"""The triangular factor of a table as a metric."""

import torch
from torch import Tensor

from linreg_pl.functional.factors import merge_folds, merge_shifted, shifted, shifted_factor, unshifted
from linreg_pl.metrics.merged import MergedMetric


class TriangularFactor(MergedMetric):
    """Triangular factor of ``[1 X y]``, from which all of least squares follows.

    Args:
        num_features: columns of X.
        shifted: keep the shift of the rows in what ``compute`` returns, as `shifted_factor` does, so that it can be
            merged with others later without a loss of digits.

    Example:
        >>> metric = TriangularFactor(num_features=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        >>> from linreg_pl.functional import solve
        >>> solution = solve(metric.compute())
        >>> round(solution.weight.item(), 12), round(solution.bias.item(), 12)
        (2.0, 1.0)
    """

    def __init__(self, num_features: int, shifted: bool = False) -> None:
        super().__init__(torch.zeros(num_features + 3, num_features + 2, dtype=torch.float64), merge_shifted)
        self.shifted = shifted

    def update(self, X: Tensor, y: Tensor | None = None) -> None:
        """Add features ``(n, P)`` and targets ``(n, 1)``, or only a factor, shifted or not, computed from them."""
        if y is not None:
            X = shifted_factor(X, y)
        self.absorb(shifted(X) if X.shape[0] == X.shape[1] else X)

    def compute(self) -> Tensor:
        """Return the factor, float64, shape ``(P + 2, P + 2)``, or ``(P + 3, P + 2)`` if shifted."""
        return self.summary if self.shifted else unshifted(self.summary)


class FoldFactors(MergedMetric):
    """Shifted triangular factors of the rows of each fold, for cross-validation.

    Args:
        num_folds: K.
        num_features: columns of X.
    """

    def __init__(self, num_folds: int, num_features: int) -> None:
        super().__init__(torch.zeros(num_folds, num_features + 3, num_features + 2, dtype=torch.float64), merge_folds)

    def update(self, factors: Tensor) -> None:
        """Add factors of more rows, ``(K, P + 3, P + 2)``."""
        self.absorb(factors)

    def compute(self) -> Tensor:
        """Return the factors, float64, ``(K, P + 3, P + 2)``."""
        return self.summary
