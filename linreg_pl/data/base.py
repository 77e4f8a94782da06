"""The LightningDataModule of this project, whose loaders serve rows to any model."""

import inspect
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from linreg_pl.data.batch import Batch, Rows
from linreg_pl.data.loaders import Blocks, Chunks, MiniBatches, Window
from linreg_pl.data.parts import Part
from linreg_pl.data.prepared import PreparedRows, Served
from linreg_pl.data.threads import parallel_map
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.functional.fused.steps import steps_per_chunk
from linreg_pl.functional.standardize import Scaling
from linreg_pl.tables.sources import rows_at_once

PARTS_OF_STAGES: dict[str, Part] = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


def data_of(trainer: L.Trainer) -> "DataModule | None":
    """The data of a run, if they are of this project."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, DataModule) else None


def other_columns(saved: list[str], names: list[str], path: str = "the checkpoint") -> InputError:
    """Return the error for a model that was fitted to other columns."""
    return InputError(f"{path}: was made for the features {saved}, not {names}; set --data.features, or use its data")


class DataModule(PreparedRows):
    """Rows for any LightningModule; the models of this project can ask for more than mini-batches of ``X, y``.

    Args:
        batch_size: rows in one SGD mini-batch, over all processes.
        seed: decides the data that are drawn or split, and the order of the rows.
        standardize: serve columns of mean 0 and standard deviation 1, by the moments of the training rows.
    """

    def __init__(self, batch_size: int, seed: int, standardize: bool) -> None:
        super().__init__(batch_size, seed, standardize)
        # Given the frame, Lightning need not look for it: a frame that holds itself would keep the callers' rows.
        self.save_hyperparameters(frame=inspect.currentframe())
        require_positive("--data.batch_size", batch_size)
        require_not_negative("--data.seed", seed)
        self._passes = 0  # over the training rows outside a fit
        self.serve("mini-batches")

    def setup(self, stage: str | None = None) -> None:
        """Raise InputError unless there are rows for a stage, "fit" (the default), "validate", "test" or "predict"."""
        part = PARTS_OF_STAGES[stage or "fit"]
        if self.num_rows(part) == 0:
            raise InputError(f"there are no {part} rows: {self.empty_part_hint(part)}")
        self._fits |= part == "train"
        self.serve("mini-batches")

    def teardown(self, stage: str) -> None:
        """Serve mini-batches again, whatever the model of the run asked for."""
        self.serve("mini-batches")

    def serve(self, kind: Served, raw: bool = False, interval: int = 0, moments: bool = False) -> None:
        """Choose what the loaders serve from now on, until the next ``setup`` or ``teardown``.

        Args:
            kind: of the training rows: "mini-batches", "chunks" of many of them, or triangular "factors" of blocks.
            raw: whether other rows come as they are, instead of as float32 and standardised.
            interval: a chunk ends where the number of steps is a multiple of this, if not 0.
            moments: whether chunks are for a device that takes their steps by moments.
        """
        self._served, self._serves_raw, self._interval, self._moments = kind, raw, interval, moments
        self.folds = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold so that other rows can be used; plain values only."""
        state: dict[str, Any] = {"feature_names": self.feature_names, "target_name": self.target_name}
        state["num_train"] = self.num_rows("train")
        if self._scaling is not None:
            state |= {name: column.tolist() for name, column in self._scaling._asdict().items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the scaling from a checkpoint.

        Raises:
            InputError: the checkpoint was made for other columns, or to resume a fit on another number of rows.
        """
        if state_dict["feature_names"] != self.feature_names:
            raise other_columns(state_dict["feature_names"], self.feature_names)
        saved, count = state_dict.get("num_train"), self.num_rows("train")
        if saved not in (None, count) and self.trainer is not None and self.trainer.state.fn == "fit":
            raise InputError(
                f"--ckpt_path: was made with {saved:,} training rows, here are {count:,}, and its place in their order"
                " would be another; use the same rows, or start a new fit without --ckpt_path"
            )
        if state_dict != self.state_dict():  # a fit that goes on with the same rows need not read them again
            self._forget_rows()
        self._scaling = None
        if "mean" in state_dict:
            self._scaling = Scaling(*(torch.tensor(state_dict[key], dtype=torch.float64) for key in ("mean", "scale")))

    def train_dataloader(self) -> MiniBatches | Chunks | Blocks[Tensor]:
        """Mini-batches in an order that depends on seed and epoch alone, unless the model asked for another kind."""
        self._fits = True
        if self._served == "factors":
            return self.factors("train", self.folds)

        def windows(epoch: int, first: int) -> Iterator[Window]:
            # Made by the loader, not here: after an error in this method, Lightning leaves DataLoaders patched.
            return self.windows().windows(epoch, first)

        batches = MiniBatches(self.num_rows("train"), windows, self.batch_size, *self.share, self._position)
        if self._served == "mini-batches":
            return batches
        steps = steps_per_chunk(len(batches), self.batch_size, self.num_features, self._moments)
        return Chunks(batches, steps, self._interval, shared=self._moments)

    def val_dataloader(self) -> Blocks[Batch] | list[Blocks[Batch]]:
        """Validation rows in order; an empty list if there are none."""
        return self.blocks("val") if self.num_rows("val") else []

    def test_dataloader(self) -> Blocks[Batch]:
        """Test rows in order."""
        return self.blocks("test")

    def predict_dataloader(self) -> Blocks[Batch]:
        """Rows to predict, in order."""
        return self.blocks("predict")

    def blocks(self, part: Part) -> Blocks[Batch]:
        """Load this process's share of a part, in order, in batches as large as is good for speed."""
        if self._serves_raw:
            return Blocks(lambda: parallel_map(self.local_blocks(part), lambda make: make()))
        if part == "predict" or self.streamed(part):
            return Blocks(lambda: self._transformed_blocks(part))
        return Blocks(lambda: self._slices(self.rows(part)))

    def _slices(self, rows: Rows) -> Iterator[Batch]:
        size, (rank, world_size) = rows_at_once(self.num_features + 1), self.share
        for start in range(0, max(len(rows), 1), size):
            stop = min(start + size, len(rows))
            batch = rows[start + rank : stop : world_size]
            batch.num_rows = stop - start
            yield batch

    def _position(self, loader: MiniBatches | Chunks) -> tuple[int, int]:
        """Return the epoch and how many of its mini-batches are done.

        The loader of a fit reads both from the Trainer's own count, so that it goes on where a checkpoint ends. Any
        other loader makes a whole pass, each in an order of its own.

        Raises:
            InputError: such a loader is to go on from a checkpoint, or rows of a file are to be used again.
        """
        trainer = self.trainer
        if trainer is None or not trainer.training or trainer.train_dataloader is not loader:
            if loader.resumes:
                raise InputError(
                    "a loader alone does not know where a checkpoint ends: give the Trainer the data module itself,"
                    " as in trainer.fit(model, datamodule=data, ckpt_path=path)"
                )
            self._passes += 1
            return self._passes - 1, 0
        overfits = trainer.overfit_batches  # type: ignore[attr-defined]
        if overfits and self._served == "mini-batches" and self.streamed("train"):
            raise InputError("--trainer.overfit_batches: needs the rows in memory; raise --data.memory")
        epoch = 0 if overfits else trainer.current_epoch
        if isinstance(loader, Chunks):  # the Trainer counts chunks
            steps = len(loader.batches)
            done = max(0, trainer.global_step - epoch * steps)
            return (epoch + 1, 0) if done == steps else (epoch, done)  # asked before the Trainer counts the epoch
        return epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready
