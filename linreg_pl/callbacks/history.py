"""The curves of a fit, as far as its pictures need them."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import lightning.pytorch as L

LOSSES = ("train/batch_loss", "log10/train_mse", "train/mse", "val/mse")
COEFFICIENTS = ("weight/", "bias")
MAX_FEATURES = 2  # of a model whose coefficients have curves
Found = TypeVar("Found", bound=L.Callback)
SPACING = 1.02  # least ratio of the steps of two neighbouring points: a fiftieth of a picture's width


class History(L.Callback):
    """Points ``(step, value)`` of the loss curves, denser in the beginning, where the loss falls fast.

    After 10⁹ steps a curve has less than a thousand points. Checkpoints hold them, so that a resumed fit goes on
    with them.

    Attributes:
        curves: points by the names of the curves.

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
        self.names = COEFFICIENTS if len(pl_module.feature_names) <= MAX_FEATURES else ()

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve, unless it is not finite or too close to the point before it."""
        for name, value in values.items():
            if (name in LOSSES or name.startswith(self.names)) and math.isfinite(value):
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
