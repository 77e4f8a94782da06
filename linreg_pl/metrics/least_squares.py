"""The triangular factor of a table, over any number of batches and processes."""

import torch
from torch import Tensor

from linreg_pl.functional import least_squares
from linreg_pl.metrics.merged import MergedMetric


class TriangularFactor(MergedMetric):
    """Triangular factor of ``[1 X y]``; all of least squares follows from it.

    Args:
        num_features: columns of X.

    Example:
        >>> metric = TriangularFactor(num_features=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        >>> solution = least_squares.solve(metric.compute())
        >>> round(solution.weight.item(), 12), round(solution.bias.item(), 12)
        (2.0, 1.0)
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(torch.zeros(num_features + 2, num_features + 2, dtype=torch.float64), least_squares.merge)

    def update(self, X: Tensor, y: Tensor | None = None) -> None:
        """Add features ``(n, P)`` and targets ``(n, 1)``, or alone the factor that was made of them elsewhere."""
        if len(X):
            self.absorb(X if y is None else least_squares.triangular_factor(X, y))

    def compute(self) -> Tensor:
        """Return the factor, float64, shape ``(P + 2, P + 2)``."""
        return self.summary
