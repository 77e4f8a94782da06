"""Loss, MSE, RMSE and R² over any number of batches and processes."""

import torch
from torch import Tensor

from linreg_pl.functional import scores
from linreg_pl.metrics.merged import MergedMetric


class Scores(MergedMetric):
    """Scores of predictions, every row counted once.

    Example:
        >>> metric = Scores()
        >>> y, y_hat = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])
        >>> metric.update(y_hat, y, torch.tensor(0.5))
        >>> metric.compute()["mse"]
        0.5
    """

    def __init__(self) -> None:
        super().__init__(torch.zeros(5, dtype=torch.float64), scores.merge)

    def update(self, y_hat: Tensor, y: Tensor, loss_sum: Tensor, weight: Tensor | None = None) -> None:
        """Add predictions ``(n, 1)``, targets ``(n, 1)``, the model's loss summed over them, and their weights."""
        self.absorb(scores.summarize(y_hat, y, loss_sum, weight))

    def compute(self) -> dict[str, float]:
        """See `linreg_pl.functional.scores.scores`."""
        return scores.scores(self.summary)
