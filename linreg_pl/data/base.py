"""What every data module has: parts, loaders, and the table's own units."""

import inspect
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from linreg_pl.data.loaders import Blocks, MiniBatchLoader, plain_loader, unchanged
from linreg_pl.data.rows import Batch, Rows, Share
from linreg_pl.data.sampling import (
    Chunk,
    Chunks,
    MiniBatches,
    OneWindow,
    Orders,
    Sample,
    Streamed,
    Windows,
    start_of_epoch_zero,
)
from linreg_pl.data.sources import rows_at_once
from linreg_pl.data.spill import Spill
from linreg_pl.data.threads import worked_on
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.functional.least_squares import merge as merge_factors
from linreg_pl.functional.least_squares import triangular_factor
from linreg_pl.functional.sgd import by_moments, steps_per_chunk
from linreg_pl.functional.standardize import column_moments, merge, standardize, summarize, to_own_units

Part = Literal["train", "val", "test", "predict"]

BLOCKS_PER_STEP = 16  # of Exact: a step of the Trainer takes as long as a block
ROUNDING = 1e-14  # of a mean in float64: a column that varies by less has one value


def data_of(trainer: L.Trainer) -> "DataModule":
    """The data of a fit, of which Lightning's types know nothing."""
    data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


def other_columns(saved: list[str], names: list[str], path: str = "the checkpoint") -> InputError:
    """What to say of a checkpoint made for other columns."""
    return InputError(f"{path}: was made for the features {saved}, not {names}; set --data.features, or use its data")


def require_squarable(name: str, size: float) -> None:
    """Raise InputError if squares of numbers of this size are beyond float64."""
    if size != 0 and not 1e-150 < size < 1e150:
        what = "small" if size < 1 else "large"
        raise InputError(f"column {name!r}: its values are too {what} to be squared in float64; rescale the column")


def _factor(make: Callable[[], Batch]) -> Tensor:
    batch = make()
    return triangular_factor(batch.X, batch.y, batch.weight)


class DataModule(L.LightningDataModule, ABC):
    """Rows to learn from, in parts, with names and units.

    Args:
        batch_size: rows in one SGD mini-batch, over all processes.
        seed: decides the data that are drawn or split, and the order of the rows.
        standardize: give the model columns of mean 0 and standard deviation 1, by the
            moments of the training rows. Reports stay in the columns' own units.

    Attributes:
        feature_names: names of the columns of X.
        target_name: name of y.
        truth: the coefficients the data were made with, weights then bias, if known.
        mean: what is subtracted from the columns, shape ``(P,)``.
        scale: what they are then divided by, shape ``(P,)``.
        weighted: whether rows have weights.
        memory: MiB of rows kept in memory.
        sample: takes some of the training rows, in their own units, as they are read; None for none.
    """

    feature_names: list[str]
    target_name: str
    weighted = False
    memory = math.inf
    truth: tuple[list[float], float] | None = None

    def __init__(self, batch_size: int, seed: int, standardize: bool) -> None:
        super().__init__()
        self.save_hyperparameters(frame=inspect.currentframe())  # see `LinearModel`
        require_positive("--data.batch_size", batch_size)
        require_not_negative("--data.seed", seed)
        self.batch_size = batch_size
        self.seed = seed
        self.order_seed: int | None = seed  # shuffles the training rows anew each epoch; None keeps them in order
        self.standardize = standardize
        self.mean: Tensor | None = None
        self.scale: Tensor | None = None
        self.sample: Sample | None = None
        self._rows: dict[Part, Rows] = {}
        self._all_windows: Windows | None = None
        self._said_rounded: set[str] = set()

    @abstractmethod
    def promises(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield what makes the blocks of a part, on any thread: in order, in own units; or one process's share."""

    def own_units(self, part: Part) -> tuple[Tensor, Tensor]:
        """All features ``(n, P)`` and targets ``(n, 1)`` of a part, in their own units."""
        X, y = zip(*((batch.X, batch.y) for batch in (make() for make in self.promises(part))), strict=True)
        return torch.cat(X), torch.cat(y)

    @abstractmethod
    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part."""

    @abstractmethod
    def how_to_get_rows(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""

    @property
    def missing_values(self) -> dict[str, Any]:
        """What was missing and what became of it; empty where nothing was."""
        return {}

    @property
    def num_features(self) -> int:
        """Number of columns of X."""
        return len(self.feature_names)

    @property
    def share(self) -> tuple[int, int]:
        """This process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def model_wants_own_units(self) -> bool:
        """Whether the model at hand sees the columns as they are."""
        return self.trainer is not None and bool(self.trainer.lightning_module.own_units)

    def streamed(self, part: Part) -> bool:
        """Whether a part is too large to be kept in memory."""
        return self.num_rows(part) * (self.num_features + 1) * 4 > self.memory * 2**20

    def setup(self, stage: str) -> None:
        """Check that there are rows for the stage, and learn the moments of the training rows."""
        parts: dict[str, Part] = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
        part = parts[stage]
        if self.num_rows(part) == 0:
            raise InputError(f"there are no {part} rows: {self.how_to_get_rows(part)}")
        if stage == "fit" and self.standardize and not self.model_wants_own_units:
            summaries = worked_on(self.promises("train"), lambda make: summarize(make().X))
            self.mean, self.scale = column_moments(reduce(merge, summaries))
            for name, mean, scale in zip(self.feature_names, self.mean.tolist(), self.scale.tolist(), strict=True):
                require_squarable(name, max(abs(mean), scale))
                if scale <= ROUNDING * abs(mean):
                    raise InputError(
                        f"column {name!r} has one value only, so it cannot be standardised:"
                        " leave it out of --data.features"
                    )

    def as_the_model_sees(self, batch: Batch) -> Batch:
        """A batch in own units as float32, standardised if asked for.

        Raises:
            InputError: a value is too large for float32.
        """
        X = batch.X
        if self.mean is not None and self.scale is not None:
            X = standardize(X, self.mean, self.scale)
        X, y = self._to_float32(X, self.feature_names), self._to_float32(batch.y, [self.target_name])
        return batch._replace(X=X, y=y, weight=None if batch.weight is None else batch.weight.float())

    def _seen(self, make: Callable[[], Batch]) -> Batch:
        return self.as_the_model_sees(make())

    def _to_float32(self, columns: Tensor, names: list[str]) -> Tensor:
        result = columns.float()
        if columns.dtype == torch.float32 or len(columns) == 0:
            return result
        largest = max(map(abs, map(float, torch.aminmax(columns))))
        if largest > torch.finfo(torch.float32).max:
            row, column = result.isinf().nonzero()[0].tolist()
            raise InputError(
                f"column {names[column]!r}: {columns[row, column]:g} is too large for float32, which the steps are"
                " taken in; rescale the column"
            )
        if largest <= 2**24:
            return result
        rounded = (columns.abs() > 2**24) & (columns == columns.round()) & (columns != result)
        for column in rounded.any(dim=0).nonzero().flatten().tolist():
            if names[column] not in self._said_rounded and self.share[0] == 0:
                print(
                    f"column {names[column]!r}: integers beyond 2^24 are rounded to float32, which the steps are taken"
                    " in\n",
                    flush=True,
                )
            self._said_rounded.add(names[column])
        return result

    def _sampled(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """`promises`, whose training rows the sample sees."""
        promises = self.promises(part, rank, world_size)
        return map(self._shown, promises) if part == "train" and self.sample is not None else promises

    def _shown(self, make: Callable[[], Batch]) -> Callable[[], Batch]:
        def made() -> Batch:
            batch = make()
            self.sample.see(batch)  # type: ignore[union-attr]
            return batch

        return made

    def rows(self, part: Part) -> Rows:
        """Rows of a part as the model sees them, float32, in memory from now on."""
        if part not in self._rows:
            count = self.num_rows(part)
            widths = (self.num_features, 1, 1) if self.weighted else (self.num_features, 1)
            # In memory from numpy: it asks for huge pages, where random rows are found half again as fast.
            arrays = [torch.from_numpy(np.empty((count, width), np.float32)) for width in widths]
            start = 0
            for batch in worked_on(self._sampled(part), self._seen):
                stop = start + len(batch.y)
                for array, column in zip(arrays, batch.columns, strict=True):
                    array[start:stop] = column
                start = stop
            self._rows[part] = Rows(*arrays)
        return self._rows[part]

    def to_own_units(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the model's weight ``(P,)`` and bias ``()`` into the columns' own units, float64."""
        if self.mean is None or self.scale is None or self.model_wants_own_units:
            return weight.double(), bias.double()
        return to_own_units(weight, bias, self.mean, self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must carry to be used on other rows; plain values only."""
        state: dict[str, Any] = {"feature_names": self.feature_names, "target_name": self.target_name}
        state["num_train"] = self.num_rows("train")
        if self.mean is not None and self.scale is not None:
            state |= {"mean": self.mean.tolist(), "scale": self.scale.tolist()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the moments from a checkpoint.

        Raises:
            InputError: the checkpoint was made for other columns.
        """
        if state_dict["feature_names"] != self.feature_names:
            raise other_columns(state_dict["feature_names"], self.feature_names)
        saved, count = state_dict.get("num_train"), self.num_rows("train")
        if saved not in (None, count) and self.trainer is not None and self.trainer.state.fn == "fit":
            raise InputError(
                f"--ckpt_path: was made with {saved:,} training rows, here are {count:,}, and its place in their order"
                " would be another; use the same rows, or fit anew without --ckpt_path"
            )
        self._rows.clear()
        self._all_windows = None
        self.mean = self.scale = None
        if "mean" in state_dict:
            self.mean = torch.tensor(state_dict["mean"], dtype=torch.float64)
            self.scale = torch.tensor(state_dict["scale"], dtype=torch.float64)

    def train_dataloader(self) -> DataLoader[Any]:
        """Mini-batches in an order that depends on (seed, epoch) alone; factors for a model of own units."""
        if self.model_wants_own_units:
            return self.factors("train")
        if self.trainer is not None and self.trainer.lightning_module.in_chunks:
            return self._chunks()
        if self.streamed("train"):
            if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
                raise InputError("--trainer.overfit_batches: needs the rows in memory; raise --data.memory")
            return plain_loader(Streamed(self._windows(), self.batch_size, *self.share, self._position))
        return self._loader(self.rows("train"), self.batch_size, self.order_seed, self._position)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Validation rows in order; an empty list where there are none."""
        return self.blocks("val") if self.num_rows("val") else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test rows in order."""
        return self.blocks("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Rows to predict, in order, in their own units."""
        return self.blocks("predict", own_units=True)

    def first_mini_batches(self, count: int) -> Batch:
        """Rows of the first ``count`` whole mini-batches of epoch 0, or as many as the first window holds."""
        window = next(iter(self._windows().windows(0, 0)))
        size = min(self.batch_size, len(window.order))
        order = window.order[: min(count, len(window.order) // size) * size]
        return window.rows[Share(order, len(order))]

    def blocks(self, part: Part, own_units: bool | None = None) -> DataLoader[Batch]:
        """Load a part in order, in batches as large as is good for speed.

        Args:
            part: which rows.
            own_units: whether they come as they are; by default as the model wants them.
        """
        own_units = self.model_wants_own_units if own_units is None else own_units
        if not own_units and not self.streamed(part):
            return self._loader(self.rows(part), rows_at_once(self.num_features + 1))
        work: Callable[[Callable[[], Batch]], Batch] = (lambda make: make()) if own_units else self._seen
        return plain_loader(Blocks(lambda: worked_on(self._some(part), work)))

    def factors(self, part: Part) -> DataLoader[Tensor]:
        """Load triangular factors of ``[1 X y]``, each of some blocks of a part, made by several threads."""

        def factors() -> Iterator[Tensor]:
            of_blocks = worked_on(self._some(part), _factor)
            while self._any_process(some := list(islice(of_blocks, BLOCKS_PER_STEP))):  # so they take as many steps
                yield merge_factors(torch.stack(some or [_factor(self._no_rows)]))

        return plain_loader(Blocks(factors))

    def _some(self, part: Part) -> Iterator[Callable[[], Batch]]:
        """This process's share of a part; one batch without rows where it has none, for the Trainer wants one."""
        make = None
        for make in self._sampled(part, *self.share):
            yield make
        if make is None:
            yield self._no_rows

    def _no_rows(self) -> Batch:
        return Batch(torch.empty(0, self.num_features), torch.empty(0, 1), 0, slice(0, 0))

    def _any_process(self, has: object) -> bool:
        """Whether any process has something; all must ask."""
        return self.trainer.strategy.reduce_boolean_decision(bool(has), all=False) if self.trainer else bool(has)

    def _loader(
        self,
        rows: Rows,
        batch_size: int,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] = start_of_epoch_zero,
    ) -> DataLoader[Batch]:
        order = MiniBatches(len(rows), batch_size, *self.share, seed, position)
        return MiniBatchLoader(
            rows,
            batch_size=None,
            sampler=order,  # an item is a whole mini-batch
            collate_fn=unchanged,
            generator=torch.Generator(),  # leaves the global generator alone
        )

    def _chunks(self) -> DataLoader[Chunk]:
        assert self.trainer is not None
        trainer, windows = self.trainer, self._windows()
        num_steps = -(-windows.num_rows // self.batch_size)

        def position() -> tuple[int, int]:  # in mini-batches; the Trainer counts chunks
            epoch = trainer.current_epoch
            return epoch, max(0, trainer.global_step - epoch * num_steps)

        moments = by_moments(trainer.strategy.root_device)
        steps = steps_per_chunk(num_steps, self.batch_size, self.num_features, moments)
        divisor: int = trainer.lightning_module.chunk_divisor  # type: ignore[assignment]
        share = self.share if moments else (0, 1)
        chunks = Chunks(windows, self.batch_size, *share, position, steps=steps, divisor=divisor)
        return plain_loader(chunks)

    def _windows(self) -> Windows:
        """The training rows as the model sees them, a window at a time."""
        if self._all_windows is None:
            orders = Orders(self.num_rows("train"), self.order_seed)
            self._all_windows = self._spilled() if self.streamed("train") else OneWindow(self.rows("train"), orders)
        return self._all_windows

    def _spilled(self) -> Spill:
        """Write the training rows to a file that this machine's processes share, without a name: no kill leaves it."""
        strategy = None if self.trainer is None else self.trainer.strategy
        token = uuid4().hex if strategy is None else strategy.broadcast(uuid4().hex)
        path = Path(tempfile.gettempdir(), f"linreg_pl-{token}.rows")
        window_bytes = int(self.memory * 2**20) // 32
        spill = Spill(
            path, self.num_rows("train"), self.num_features, self.weighted, self.batch_size, self.seed, window_bytes
        )
        first = self.trainer is None or self.trainer.local_rank == 0
        if strategy is not None:
            strategy.barrier()  # all have opened it
        if first:
            path.unlink()
            spill.write(worked_on(self._sampled("train"), self._seen))
        if strategy is not None:
            strategy.barrier()
        if spill.worst_spread > 1.25 and self.share[0] == 0:
            print(
                f"mini-batches of {self.batch_size} rows are large beside what is in memory at once: if the table is"
                f" sorted, their means spread up to {spill.worst_spread:.1f} times as wide as they should;"
                " raise --data.memory, or rewrite the table by python train.py shuffle\n",
                flush=True,
            )
        return spill

    def _position(self) -> tuple[int, int]:
        """Epoch and mini-batches done in it, by the Trainer's own count; also right after a resume."""
        if self.trainer is None:
            return 0, 0
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        same_every_epoch = self.trainer.overfit_batches  # type: ignore[attr-defined]
        return 0 if same_every_epoch else self.trainer.current_epoch, done
