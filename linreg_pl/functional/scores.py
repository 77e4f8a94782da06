"""Scores of predictions, computed from summaries that can be merged over batches and processes.

A summary of ``n`` rows is the float64 vector ``(n, Σloss, Σ(y - ŷ)², ȳ, Σ(y - ȳ)²)``.
The target's sum of squares is taken about its mean (Chan, Golub and LeVeque 1983), so
that R² stays accurate when the mean is large.
"""

import math

import torch
from torch import Tensor


def summarize_predictions(y_hat: Tensor, y: Tensor, loss_sum: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the summary of one batch of predictions.

    Args:
        y_hat: predictions, shape ``(n, 1)``.
        y: targets, shape ``(n, 1)``.
        loss_sum: the model's own loss, summed over the rows, a scalar.
        weight: weight of each row, shape ``(n, 1)``; ones by default.

    Returns:
        float64, shape ``(5,)``.
    """
    y_hat, y = y_hat.double(), y.double()
    weight = torch.ones_like(y) if weight is None else weight.double()
    count = weight.sum()
    mean = (weight * y).sum() / torch.where(count > 0, count, 1.0)
    squares, deviation = (weight * (y - y_hat).square()).sum(), (weight * (y - mean).square()).sum()
    return torch.stack([count, loss_sum.double(), squares, mean, deviation])


def merge_summaries(summaries: Tensor) -> Tensor:
    """Return the summary of all rows together.

    Args:
        summaries: shape ``(k, 5)``.

    Returns:
        Shape ``(5,)``.
    """
    count, loss_sum, squares, mean, deviation = summaries.unbind(dim=1)
    total = count.sum()
    grand_mean = (count * mean).sum() / torch.where(total > 0, total, 1.0)
    deviation = deviation + count * (mean - grand_mean).square()
    return torch.stack([total, loss_sum.sum(), squares.sum(), grand_mean, deviation.sum()])


def scores(summary: Tensor) -> dict[str, float]:
    """Return mean loss, mean squared error, its root, and R².

    Args:
        summary: shape ``(5,)``.

    Returns:
        ``loss``, ``mse``, ``rmse`` and ``r2``; without ``r2`` if the target is
        constant, and empty if there are no rows.

    Example:
        >>> y, y_hat = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])
        >>> scores(summarize_predictions(y_hat, y, torch.tensor(0.5)))
        {'loss': 0.25, 'mse': 0.5, 'rmse': 0.7071067811865476, 'r2': 0.5}
    """
    count, loss_sum, squares, _, deviation = summary.tolist()
    if count == 0:
        return {}
    mse = squares / count
    result = {"loss": loss_sum / count, "mse": mse, "rmse": math.sqrt(mse)}
    if deviation > 0 and math.isfinite(squares):
        result["r2"] = 1 - squares / deviation
    return result
