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
        num_folds: keep a factor of the rows of each of K folds, for cross-validation; it needs ``shifted``.

    Example:
        >>> metric = TriangularFactor(num_features=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        >>> from linreg_pl.functional import solve
        >>> solution = solve(metric.compute())
        >>> round(solution.weight.item(), 12), round(solution.bias.item(), 12)
        (2.0, 1.0)
    """

    def __init__(self, num_features: int, shifted: bool = False, num_folds: int | None = None) -> None:
        folds, merge = ([], merge_shifted) if num_folds is None else ([num_folds], merge_folds)
        super().__init__(torch.zeros(*folds, num_features + 3, num_features + 2, dtype=torch.float64), merge)
        self.shifted = shifted

    def update(self, X: Tensor, y: Tensor | None = None) -> None:
        """Add features ``(n, P)`` and targets ``(n, 1)``, or only a factor, shifted or not, or factors of the folds."""
        if y is not None:
            X = shifted_factor(X, y)
        self.absorb(shifted(X) if X.shape[-2] == X.shape[-1] else X)

    def compute(self) -> Tensor:
        """Return the factor, float64, ``(P + 2, P + 2)``, or ``(P + 3, P + 2)`` if shifted, after ``K`` if of folds."""
        return self.summary if self.shifted else unshifted(self.summary)
