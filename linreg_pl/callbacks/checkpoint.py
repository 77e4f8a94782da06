"""Checkpoints, the last of which is of the last step."""

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint

from linreg_pl.engine.epoch_loop import EpochLoop
from linreg_pl.engine.processes import publish_run_folder
from linreg_pl.errors import InputError
from linreg_pl.files import atomic_link
from linreg_pl.runs.checkpoints import run_folder
from linreg_pl.runs.logger import run_loggers


def _count(trainer: L.Trainer) -> dict[str, Any]:
    return deepcopy(trainer._checkpoint_connector._get_loops_state_dict())


def _count_after_epoch(trainer: L.Trainer) -> dict[str, Any]:
    """The Trainer's count as the next epoch finds it: from one in between it may go on with the end once more."""
    loops = _count(trainer)
    for progress in loops["fit_loop"]["epoch_progress"].values():
        progress["completed"] = progress["processed"]
    batches = loops["fit_loop"]["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
    return loops


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also saves ``last.ckpt`` when a fit ends between two intervals.

    Resuming from it repeats and skips no step: at the end of an epoch it is made once the scores are known, and it
    holds the sizes of the event files, so that curves go on where it was made.
    """

    _newest: str | None = None  # just saved, of the very same state as the next
    _due = False  # at the end of the epoch, if not before
    _loops: dict[str, Any] | None = None  # the Trainer's count, if it is not to be kept as it is

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare for a run.

        Raises:
            InputError: processes should save on an exception, which may be of one alone.
            OSError: there can be no such folder.
        """
        if self.save_on_exception and trainer.world_size > 1:
            raise InputError(
                "--checkpoint.save_on_exception true: one of several processes cannot save alone; use"
                " --checkpoint.every_n_train_steps"
            )
        if self.dirpath and stage == "fit" and trainer.is_global_zero:  # not only after an epoch
            Path(self.dirpath).mkdir(parents=True, exist_ok=True)
        super().setup(trainer, pl_module, stage)
        if trainer.is_global_zero and self.dirpath:
            publish_run_folder(run_folder(Path(self.dirpath, "last.ckpt")))

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        self._newest = None
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_last_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        self._newest = None

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Save, or give what was just saved a second name."""
        if self._newest is None:
            super()._save_checkpoint(trainer, filepath)
            self._newest = filepath
            return
        if trainer.is_global_zero:
            atomic_link(Path(self._newest), Path(filepath))
        trainer.strategy.barrier()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the place in the curves, and the right count."""
        for logger in run_loggers(trainer):
            checkpoint["curves"] = logger.event_file_sizes()
        if self._loops is not None:
            checkpoint["loops"] = self._loops

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the Trainer's count as it is."""
        self._loops = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after so many steps or so much time."""
        ends = trainer.should_stop
        within_an_epoch = self._every_n_train_steps or self._train_time_interval is not None or trainer.max_steps != -1
        if not (within_an_epoch or ends):
            return
        if trainer.accumulate_grad_batches > 1 and trainer.fit_loop._should_accumulate():  # the step is not over
            return
        step = trainer.global_step
        self._due |= self._every_n_train_steps > 0 and step % self._every_n_train_steps == 0
        ends |= step == trainer.max_steps
        if self._train_time_interval is not None:  # Lightning does not look at it where steps are taken by hand
            late = time.monotonic() - (self._last_time_checked or 0.0) >= self._train_time_interval.total_seconds()
            self._due |= trainer.strategy.reduce_boolean_decision(late, all=False)
        if trainer.is_last_batch:
            return
        self._loops = _count(trainer) if ends else None  # by which the epoch is not over yet
        loop = trainer.fit_loop
        if self._due and not ends and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            self.save_now(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what is due after a validation within an epoch, so that its scores are not lost."""
        super().on_validation_end(trainer, pl_module)
        if self._due and self._loops is None and not trainer.is_last_batch:
            self.save_now(trainer)

    def save_now(self, trainer: L.Trainer) -> None:
        """Save at the end of a step."""
        self._due = False
        self._last_time_checked = time.monotonic()
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what is due."""
        if trainer.is_last_batch:
            if isinstance(loop := trainer.fit_loop.epoch_loop, EpochLoop):
                loop.step_plateau_schedulers()  # they belong to the epoch that the checkpoint ends
            self._loops = _count_after_epoch(trainer)
            super().on_train_epoch_end(trainer, pl_module)
        elif self._loops is not None:
            self._due = True
        if self._due:
            self.save_now(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state, if the last checkpoint is older."""
        super().on_train_end(trainer, pl_module)
        if self.save_last and trainer.global_step > self._last_global_step_saved:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
