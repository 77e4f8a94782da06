"""Curves over the SGD steps, written for TensorBoard and kept for pictures: the loss, coefficients, and the optimum."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as L

from linreg_pl.data.base import data_of
from linreg_pl.data.summary import TrainingSummary
from linreg_pl.functional.least_squares import num_rows, residual_sum_of_squares

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel

MAX_COEFFICIENTS = 32  # curves of more are not drawn: nobody can read them
MAX_LOSSES = 10  # of a chunk
POINTS = 200  # of a curve before they become sparse
KEPT_LOSSES = ("train/batch_loss", "log10/train_mse", "train/mse", "val/mse")
KEPT_COEFFICIENTS = ("weight/", "bias")  # of a model of few features
MAX_FEATURES = 2
SPACING = 1.02  # least ratio of the steps of two neighbouring points that are kept: a fiftieth of a picture's width
Found = TypeVar("Found", bound=L.Callback)


class Curves(L.Callback):
    """Writes curves every ``log_every_n_steps`` steps; after 200 points half as often, and so on at each doubling.

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
        losses = outputs.get("losses", ())  # of the steps within a chunk, whose last step has a point of its own
        first = step - len(losses)
        due = range(first + interval - first % interval, step, interval)
        for number in due[:: -(-len(due) // MAX_LOSSES) or 1]:
            log_step(trainer, {"train/batch_loss": float(losses[number - first - 1])}, number)
        self._next_step = next_point(step, interval)
        loss = trainer.strategy.reduce(outputs["loss"], reduce_op="mean")
        log_step(trainer, {"train/batch_loss": float(loss), **coefficient_scalars(trainer, pl_module)})


def next_point(step: int, interval: int) -> int:
    """The next step after ``step`` at which curves have a point.

    Example:
        >>> next_point(57, 10), next_point(2000, 10), next_point(1_000_000, 10)
        (60, 2020, 1003520)
    """
    spacing = interval << (step // (interval * POINTS)).bit_length()
    return step - step % spacing + spacing


def coefficient_scalars(trainer: L.Trainer, model: "LinearModel") -> dict[str, float]:
    """Coefficients for raw columns, their distances to the optimum, the error over the training rows, and its floor."""
    data, bias = data_of(trainer), model.has_bias
    summary = TrainingSummary() if data is None else data.summary
    weight, intercept = model.coefficients()
    names = model.feature_names[:MAX_COEFFICIENTS]
    values = {f"weight/{name}": value for name, value in zip(names, weight.tolist(), strict=False)}
    values |= {"bias": intercept.item()} if bias else {}
    if (optimum := summary.optimum(bias)) is not None:
        away = (weight - optimum.weight).tolist()
        values |= {f"distance/{name}": value for name, value in zip(names, away, strict=False)}
        values |= {"distance/bias": (intercept - optimum.bias).item()} if bias else {}
    if summary.factor is not None and model.squared_error_scale is not None:
        mse = residual_sum_of_squares(summary.factor, weight, intercept) / num_rows(summary.factor)
        values["log10/train_mse"] = math.log10(mse) if mse > 0 else math.nan
    if floor := summary.noise_floor(bias):
        values["log10/noise_floor"] = math.log10(floor)
    return values


class History(L.Callback):
    """Points ``(step, value)`` of the loss curves, denser in the beginning, where the loss falls fast.

    After 10⁹ steps a curve has less than a thousand points. Checkpoints hold them, so that a resumed fit goes on
    with them.

    Example:
        >>> history = History()
        >>> for step in range(1000):
        ...     history.add({"val/mse": 1 / (1 + step), "bias": 4.2}, step)
        >>> history["val/mse"][:3], len(history["val/mse"]), history["bias"]
        ([(0, 1.0), (1, 0.5), (2, 0.3333333333333333)], 182, [])
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.curves: dict[str, list[tuple[int, float]]] = {}

    def __getitem__(self, name: str) -> list[tuple[int, float]]:
        """The points of a curve; none if there is no such curve."""
        return self.curves.get(name, [])

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Keep the curves of the coefficients too if there are few."""
        self.names = KEPT_COEFFICIENTS if len(pl_module.feature_names) <= MAX_FEATURES else ()

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve, unless it is not finite or too close to the point before it."""
        for name, value in values.items():
            if (name in KEPT_LOSSES or name.startswith(self.names)) and math.isfinite(value):
                curve = self.curves.setdefault(name, [])
                if not curve or step >= max(curve[-1][0] + 1, curve[-1][0] * SPACING):
                    curve.append((step, float(value)))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the curves."""
        checkpoint["history"] = self.curves

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the curves."""
        self.curves = checkpoint.get("history", {})


def find_callback(trainer: L.Trainer, kind: type[Found]) -> Found:
    """The Trainer's callback of a kind; a new one, which nobody reads, if it has none."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None) or kind()


def log_step(trainer: L.Trainer, values: Mapping[str, float], step: int | None = None) -> None:
    """Write values to the history and to the loggers, by default at the current SGD step.

    ``self.log`` at every step would take longer than the step.
    """
    step = trainer.global_step if step is None else step
    find_callback(trainer, History).add(values, step)
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)
