"""Curves over the SGD steps: the loss, the coefficients, and both against the optimum."""

import math
from typing import Any

import lightning.pytorch as L

from linreg_pl.callbacks.epochs import training_scores
from linreg_pl.data.base import DataModule, data_of
from linreg_pl.models.base import LinearModel

MAX_COEFFICIENTS = 32  # curves of more are not drawn: nobody can read them
MAX_LOSSES = 10  # of a chunk


class Curves(L.Callback):
    """Writes curves every ``log_every_n_steps`` steps.

    ``train/batch_loss``, ``weight/<name>`` and ``bias``; where the optimum is known also
    ``distance/<name>`` to it, and the mean squared error over all training rows against
    the noise floor as ``log10/train_mse`` and ``log10/noise_floor``. They go straight to
    the loggers: ``self.log`` at every step would cost more than the step.
    """

    def __init__(self) -> None:
        self._last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on where a checkpoint ends."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if it is time to."""
        step, interval = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not interval or step // interval == self._last_step // interval or not outputs:
            return
        assert isinstance(pl_module, LinearModel)
        _write_losses_within(outputs, step, interval, pl_module)
        self._last_step = step
        loss = trainer.strategy.reduce(outputs["loss"], reduce_op="mean")
        values = {"train/batch_loss": float(loss), **current(data_of(trainer), pl_module)}
        if pl_module.noise_floor:
            values["log10/noise_floor"] = math.log10(pl_module.noise_floor)
        pl_module.write(values)


def _write_losses_within(outputs: Any, step: int, interval: int, model: LinearModel) -> None:
    """Write the losses of some steps within a chunk; its last step has a point of its own."""
    losses = outputs.get("losses", ())
    first = step - len(losses)
    due = range(first + interval - first % interval, step, interval)
    for number in due[:: -(-len(due) // MAX_LOSSES) or 1]:
        model.write({"train/batch_loss": float(losses[number - first - 1])}, number)


def current(data: DataModule, model: LinearModel) -> dict[str, float]:
    """Coefficients in the columns' own units, their distances to the optimum, and the error over the training rows."""
    weight, bias = data.to_own_units(*model.coefficients())
    names = data.feature_names[:MAX_COEFFICIENTS]
    values = {f"weight/{name}": value for name, value in zip(names, weight.tolist(), strict=False)}
    if model.has_bias:
        values["bias"] = bias.item()
    if model.optimum is not None:
        away = (weight - model.optimum.weight).tolist()
        values |= {f"distance/{name}": value for name, value in zip(names, away, strict=False)}
        if model.has_bias:
            values["distance/bias"] = (bias - model.optimum.bias).item()
    if mse := training_scores(model, weight, bias).get("mse"):
        values["log10/train_mse"] = math.log10(mse) if mse > 0 else math.nan
    return values
