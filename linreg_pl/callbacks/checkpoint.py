"""Checkpoints, the last of which is of the last step."""

import io
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from linreg_pl.errors import InputError
from linreg_pl.hooks import drop_unused


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, so that no kill and no full disk costs the one before it.

    Lightning stages it in the folder for temporary files and may have to copy it over the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a temporary file in the same folder, see it on the disk, and rename it.

        Raises:
            InputError: the disk is full, or the folder may not be written to.
        """
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            kept = "the one before it is whole" if path.exists() else "there is none before it"
            raise InputError(f"{path}: the checkpoint cannot be written ({error.strerror}); {kept}") from error


def _copy(source: str, target: str) -> None:
    """Replace the target at once by another name of the source, or by a copy where that cannot be."""
    temporary = Path(f"{target}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also saves ``last.ckpt`` when a fit ends between two intervals."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare for a run."""
        super().setup(trainer, pl_module, stage)
        drop_unused(self, L.Callback)

    _newest: str | None = None  # just saved, of the very same state as the next

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
            _copy(self._newest, filepath)
        trainer.strategy.barrier()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where ``max_steps`` ends the fit within an epoch, while the Trainer still counts it as not done."""
        if self._every_n_train_steps or self._train_time_interval:  # else there is nothing to do
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.max_steps >= 0 and trainer.global_step == trainer.max_steps and not trainer.is_last_batch:
            self.save_now(trainer)

    def save_now(self, trainer: L.Trainer) -> None:
        """Save at the end of a step."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after whole epochs only: what ended early would count as one when it is resumed."""
        if trainer.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state, if the last checkpoint is older."""
        super().on_train_end(trainer, pl_module)
        if self.save_last and trainer.global_step > self._last_global_step_saved:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
