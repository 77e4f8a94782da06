"""Loss, MSE, RMSE and R² as a metric."""

import torch
from torch import Tensor

from linreg_pl.functional.scores import merge_summaries, scores, summarize_predictions
from linreg_pl.metrics.merged import MergedMetric


class Scores(MergedMetric):
    """Scores of predictions, in which each row counts once over all batches and processes.

    Example:
        >>> metric = Scores()
        >>> y, y_hat = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])
        >>> metric.update(y_hat, y, torch.tensor(0.5))
        >>> metric.compute()["mse"]
        0.5
    """

    def __init__(self) -> None:
        super().__init__(torch.zeros(5, dtype=torch.float64), merge_summaries)

    def update(self, y_hat: Tensor, y: Tensor, loss_sum: Tensor, weight: Tensor | None = None) -> None:
        """Add predictions ``(n, 1)``, targets ``(n, 1)``, the model's loss summed over them, and their weights."""
        self.absorb(summarize_predictions(y_hat, y, loss_sum, weight))

    def compute(self) -> dict[str, float]:
        """Return ``loss``, ``mse``, ``rmse`` and ``r2``, as `linreg_pl.functional.scores`."""
        return scores(self.summary)
