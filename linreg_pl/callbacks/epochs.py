"""The loss over the whole training set after each epoch, as the notebooks print it."""

import lightning.pytorch as L
import torch
from torch import Tensor

from linreg_pl.data.base import DataModule, data_of
from linreg_pl.functional.least_squares import num_rows, residual_sum_of_squares, total_sum_of_squares
from linreg_pl.functional.scores import scores
from linreg_pl.models.base import LinearModel


class EpochLoss(L.Callback):
    """Scores the training rows after every epoch, records them as ``train/*``, and prints the loss."""

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score by the factor of the training rows where it is known, else pass over them."""
        assert isinstance(pl_module, LinearModel)
        data = data_of(trainer)
        scores = training_scores(pl_module, *data.to_own_units(*pl_module.coefficients())) or _pass(data, pl_module)
        pl_module.record({f"train/{name}": value for name, value in scores.items()})
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}, loss {scores['loss']:f}", flush=True)


def training_scores(model: LinearModel, weight: Tensor, bias: Tensor) -> dict[str, float]:
    """Scores over all training rows by their triangular factor; empty if it cannot tell.

    Args:
        model: knows the factor and the loss.
        weight: shape ``(P,)``, in the columns' own units.
        bias: shape ``()``.
    """
    R, loss_per_squared_error = model.factor, model.loss_per_squared_error
    if R is None or loss_per_squared_error is None:
        return {}
    squares = residual_sum_of_squares(R, weight, bias)
    sums = [num_rows(R), loss_per_squared_error * squares, squares, 0.0, total_sum_of_squares(R)]
    return scores(torch.tensor(sums, dtype=torch.float64))


def _pass(data: DataModule, model: LinearModel) -> dict[str, float]:
    dtype = next(model.parameters()).dtype
    for batch in data.blocks("train"):
        X, y = (tensor.to(model.device, dtype) for tensor in (batch.X, batch.y))
        weight = None if batch.weight is None else batch.weight.to(model.device)
        model.score("fit", batch._replace(X=X, y=y, weight=weight))
    return model.take_scores("fit")
