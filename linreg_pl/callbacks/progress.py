"""The progress bar of a long fit."""

import time
from typing import Any

import lightning.pytorch as L

from linreg_pl.data.base import data_of
from linreg_pl.tables.progress import DELAY, bar

INTERVAL = 0.5  # seconds


class Progress(L.Callback):
    """Shows one bar over the rows of all steps."""

    def __init__(self) -> None:
        self._due = 0.0
        self._bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start to count; the bar appears later."""
        self._due = time.monotonic() + DELAY
        data, epochs = data_of(trainer), trainer.max_epochs or 0
        total = None if data is None or epochs < 1 else epochs * data.num_rows("train")
        self._bar = bar(total, "fit")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, but not at every step."""
        if time.monotonic() < self._due or (data := data_of(trainer)) is None:
            return
        self._due = time.monotonic() + INTERVAL
        rows = data.num_rows("train")
        steps = -(-rows // data.batch_size)
        done = trainer.global_step // steps * rows + trainer.global_step % steps * data.batch_size
        self._bar.update(done - self._bar.n)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Clear the line for what is printed."""
        self._bar.clear()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self._bar.close()
