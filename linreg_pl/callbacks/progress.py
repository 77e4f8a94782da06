"""How far a long fit has come."""

import time
from typing import Any

import lightning.pytorch as L

from linreg_pl.data.base import data_of
from linreg_pl.progress import DELAY, bar

INTERVAL = 0.5  # seconds


class Progress(L.Callback):
    """Shows one bar over the rows of all steps."""

    def __init__(self) -> None:
        self._due = 0.0
        self._bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count, but show nothing yet."""
        self._due = time.monotonic() + DELAY
        data, epochs = data_of(trainer), trainer.max_epochs or 0
        self._bar = bar(epochs * data.num_rows("train") if epochs > 0 else None, "fit")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show how far it is, now and then."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + INTERVAL
        data = data_of(trainer)
        rows = data.num_rows("train")
        steps = -(-rows // data.batch_size)
        done = trainer.global_step // steps * rows + trainer.global_step % steps * data.batch_size
        self._bar.update(done - self._bar.n)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the line back to what is printed."""
        self._bar.clear()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._bar.close()
