"""Curves over the SGD steps: the loss, the coefficients, and both against the optimum."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L

from linreg_pl.callbacks.history import log_step
from linreg_pl.data.base import data_of
from linreg_pl.functional.least_squares import num_rows, residual_sum_of_squares

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel

MAX_COEFFICIENTS = 32  # curves of more are not drawn: nobody can read them
MAX_LOSSES = 10  # of a chunk
POINTS = 200  # of a curve before they become sparse


class Curves(L.Callback):
    """Writes curves every ``log_every_n_steps`` steps; after 200 points half as often, and so on at each doubling.

    A million steps, of which every tenth has a point, then have a thousand points instead of a hundred thousand.

    ``train/batch_loss``, ``weight/<name>`` and ``bias``; if the optimum is known also ``distance/<name>`` to it,
    and the mean squared error over all training rows against the noise floor as ``log10/train_mse`` and
    ``log10/noise_floor``.
    """

    def __init__(self) -> None:
        self._next_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Find the first step to write at, after that of a checkpoint."""
        self._next_step = next_point(trainer.global_step, trainer.log_every_n_steps or 1)  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the curves if it is time to."""
        step, interval = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step < self._next_step or not interval or not outputs:
            return
        _log_losses_within(outputs, step, interval, trainer)
        self._next_step = next_point(step, interval)
        loss = trainer.strategy.reduce(outputs["loss"], reduce_op="mean")
        values = {"train/batch_loss": float(loss), **coefficient_scalars(trainer, pl_module)}
        data = data_of(trainer)
        floor = None if data is None else data.summary.noise_floor(pl_module.has_bias)
        if floor:
            values["log10/noise_floor"] = math.log10(floor)
        log_step(trainer, values)


def next_point(step: int, interval: int) -> int:
    """The next step after ``step`` at which curves have a point.

    Example:
        >>> next_point(57, 10), next_point(2000, 10), next_point(1_000_000, 10)
        (60, 2020, 1003520)
    """
    spacing = interval << (step // (interval * POINTS)).bit_length()
    return step - step % spacing + spacing


def _log_losses_within(outputs: Any, step: int, interval: int, trainer: L.Trainer) -> None:
    """Write the losses of some steps within a chunk; its last step has a point of its own."""
    losses = outputs.get("losses", ())
    first = step - len(losses)
    due = range(first + interval - first % interval, step, interval)
    for number in due[:: -(-len(due) // MAX_LOSSES) or 1]:
        log_step(trainer, {"train/batch_loss": float(losses[number - first - 1])}, number)


def coefficient_scalars(trainer: L.Trainer, model: "LinearModel") -> dict[str, float]:
    """Coefficients for raw columns, their distances to the optimum, and the error over the training rows."""
    weight, bias = model.coefficients()
    data = data_of(trainer)
    optimum = None if data is None else data.summary.optimum(model.has_bias)
    names = model.feature_names[:MAX_COEFFICIENTS]
    values = {f"weight/{name}": value for name, value in zip(names, weight.tolist(), strict=False)}
    if model.has_bias:
        values["bias"] = bias.item()
    if optimum is not None:
        away = (weight - optimum.weight).tolist()
        values |= {f"distance/{name}": value for name, value in zip(names, away, strict=False)}
        if model.has_bias:
            values["distance/bias"] = (bias - optimum.bias).item()
    factor = None if data is None or model.squared_error_scale is None else data.summary.factor
    if factor is not None:
        mse = residual_sum_of_squares(factor, weight, bias) / num_rows(factor)
        values["log10/train_mse"] = math.log10(mse) if mse > 0 else math.nan
    return values
