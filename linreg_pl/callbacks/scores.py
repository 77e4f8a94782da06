"""Scores over all rows: of training rows after each epoch, as the notebooks print them, and of the other parts."""

import math
import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch

from linreg_pl.callbacks.curves import log_step
from linreg_pl.data.base import data_of
from linreg_pl.functional.least_squares import num_rows, residual_sum_of_squares, total_sum_of_squares
from linreg_pl.functional.scores import scores

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel

PATIENCE = 2.0  # seconds without a word


class EpochScores(L.Callback):
    """Logs ``train/*``, ``val/*`` and ``test/*``, and prints the training loss after epochs.

    All epochs are told up to the tenth, then every tenth up to 100, and so on; also the last, and any that ends
    seconds after the one told before.
    """

    def __init__(self) -> None:
        self.scores: dict[str, dict[str, float]] = {}  # by part and name, in float64, which Lightning's metrics are not
        self._told = 0.0

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Log and print the scores of the training rows."""
        found = _training_scores(trainer, pl_module)
        self._log("train", trainer, pl_module, found)
        epoch = trainer.current_epoch + 1
        due = epoch % 10 ** (len(str(epoch)) - 1) == 0 or epoch == trainer.max_epochs or trainer.should_stop
        if found and (due or time.monotonic() > self._told + PATIENCE):
            self._told = time.monotonic()
            pl_module.print(f"epoch {epoch}, loss {found['loss']:f}")  # above a progress bar
            sys.stdout.flush()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Log the scores of the validation or test rows."""
        part = "test" if trainer.testing else "val"
        found = pl_module.compute_and_reset(part)
        if not trainer.sanity_checking:
            self._log(part, trainer, pl_module, found)

    on_test_epoch_end = on_validation_epoch_end

    def _log(self, part: str, trainer: L.Trainer, model: "LinearModel", found: dict[str, float]) -> None:
        self.scores[part] = found
        values = {f"{part}/{name}": value for name, value in found.items()}
        if trainer.state.fn == "fit":
            # As `log_dict` would, which takes half a millisecond for each of them.
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
            trainer.progress_bar_metrics.update(values)
            if part == "val" and found.get("mse", 0.0) > 0:
                values["log10/val_mse"] = math.log10(found["mse"])  # runs of any scale are legible in one chart
            log_step(trainer, values)  # the loggers are told the SGD step, which Lightning would count in batches
        else:
            model.log_dict(values, batch_size=1, sync_dist=trainer.world_size > 1)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the scores."""
        kept = {f"{part}/{name}": value for part, found in self.scores.items() for name, value in found.items()}
        checkpoint["recorded"] = kept

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the scores."""
        self.scores = {}
        for name, value in checkpoint.get("recorded", {}).items():
            part, _, short = name.partition("/")
            self.scores.setdefault(part, {})[short] = value


def _training_scores(trainer: L.Trainer, model: "LinearModel") -> dict[str, float]:
    """Score the training rows by their triangular factor if it is known and tells the loss, else row by row."""
    data, scale = data_of(trainer), model.squared_error_scale
    R = None if data is None else data.summary.factor
    if R is not None and scale is not None:
        squares = residual_sum_of_squares(R, *model.coefficients())
        sums = [num_rows(R), scale * squares, squares, 0.0, total_sum_of_squares(R)]
        return scores(torch.tensor(sums, dtype=torch.float64))
    batches: Any = trainer.train_dataloader if data is None else data.blocks("train")
    count = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # an endless loader has no end of its own
    with torch.random.fork_rng(devices=[]):  # a loader that shuffles must not go on otherwise for being read twice
        for batch in islice(batches, count if data is None else None):
            prepared = model._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch))
            model.score("fit", trainer.strategy.batch_to_device(prepared))
    return model.compute_and_reset("fit")
