"""What every data module has: parts, loaders, and the table's own units."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from linreg_pl.data.reading import rows_at_once, worked_on
from linreg_pl.data.sampling import Chunk, Chunks, MiniBatches, Share, permutation, start_of_epoch_zero
from linreg_pl.errors import InputError, require_positive
from linreg_pl.functional.least_squares import triangular_factor
from linreg_pl.functional.sgd import steps_per_chunk
from linreg_pl.functional.standardize import column_moments, standardize, to_own_units

Part = Literal["train", "val", "test", "predict"]

T = TypeVar("T")


def _as_float32(X: Tensor) -> Tensor:
    """Copy to float32, in memory from numpy: it asks for huge pages, where random rows are found half again as fast."""
    return torch.from_numpy(X.numpy().astype(np.float32))


def unchanged(batch: T) -> T:
    """Collate nothing: a batch comes whole."""
    return batch


class Batch(NamedTuple):
    """This process's rows of one mini-batch."""

    X: Tensor  # (n, P)
    y: Tensor  # (n, 1)
    num_rows: int  # of the whole mini-batch, over all processes
    rows: Tensor | slice  # where the rows stand in their part


class _Factors(IterableDataset[Tensor]):
    """Triangular factors of blocks of rows."""

    def __init__(self, blocks: Iterable[Batch]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[Tensor]:
        return worked_on(iter(self.blocks), lambda block: triangular_factor(block.X, block.y))


class Rows(Dataset[Batch]):
    """Rows in memory, fetched a mini-batch at a time by one indexing operation."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X = X
        self.y = y

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)

    def __getitem__(self, share: Share) -> Batch:
        """Fetch one process's share of a mini-batch."""
        rows, num_rows = share
        if isinstance(rows, slice):
            return Batch(self.X[rows], self.y[rows], num_rows, rows)
        # Half as long as X[rows], which must find out first what rows are.
        return Batch(self.X.index_select(0, rows), self.y.index_select(0, rows), num_rows, rows)


class MiniBatchLoader(DataLoader[Batch]):
    """A loader whose items are mini-batches and need no more work."""

    def __iter__(self) -> Any:
        """Fetch them one after another, without the bookkeeping of torch's iterator, which is a tenth of a step."""
        return map(self.dataset.__getitem__, self.sampler)


def data_of(trainer: L.Trainer) -> "DataModule":
    """The data of a fit, of which Lightning's types know nothing."""
    data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


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
    """

    feature_names: list[str]
    target_name: str
    truth: tuple[list[float], float] | None = None

    def __init__(self, batch_size: int, seed: int, standardize: bool) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_positive("--data.batch_size", batch_size)
        self.batch_size = batch_size
        self.seed = seed
        self.standardize = standardize
        self.mean: Tensor | None = None
        self.scale: Tensor | None = None
        self._rows: dict[tuple[Part, bool], Rows] = {}

    @abstractmethod
    def own_units(self, part: Part) -> tuple[Tensor, Tensor]:
        """Features ``(n, P)`` and target ``(n, 1)`` of a part, in their own units."""

    @property
    def num_features(self) -> int:
        """Number of columns of X."""
        return len(self.feature_names)

    @abstractmethod
    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part."""

    def setup(self, stage: str) -> None:
        """Check that there are rows for the stage, and learn the moments of the training rows."""
        part: Part = {"fit": "train", "validate": "val"}.get(stage, stage)  # type: ignore[assignment]
        if self.num_rows(part) == 0:
            raise InputError(f"there are no {part} rows: {self.how_to_get_rows(part)}")
        if stage == "fit" and self.standardize and not self.model_wants_own_units:
            self.mean, self.scale = column_moments(self.own_units("train")[0])
            for name, scale in zip(self.feature_names, self.scale.tolist(), strict=True):
                if scale == 0:
                    raise InputError(
                        f"column {name!r} has one value only, so it cannot be standardised:"
                        " leave it out of --data.features"
                    )

    @abstractmethod
    def how_to_get_rows(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""

    @property
    def model_wants_own_units(self) -> bool:
        """Whether the model at hand sees the columns as they are."""
        return self.trainer is not None and bool(self.trainer.lightning_module.own_units)

    def rows(self, part: Part, own_units: bool | None = None) -> Rows:
        """Rows of a part.

        Args:
            part: which rows.
            own_units: True for the rows as they are; False for float32, standardised if asked
                for; by default as the model wants them.
        """
        own_units = self.model_wants_own_units if own_units is None else own_units
        if (part, own_units) not in self._rows:
            X, y = self.own_units(part)
            if not own_units:
                if self.mean is not None and self.scale is not None:
                    X = standardize(X, self.mean, self.scale)
                X, y = self._to_float32(X, self.feature_names), self._to_float32(y, [self.target_name])
            self._rows[part, own_units] = Rows(X, y)
        return self._rows[part, own_units]

    @staticmethod
    def _to_float32(columns: Tensor, names: list[str]) -> Tensor:
        """Refuse what float32 cannot hold."""
        with np.errstate(over="ignore"):  # said below, with the column's name
            result = _as_float32(columns)
        if not torch.isfinite(result.sum()) and (faulty := columns.isfinite() & result.isinf()).any():
            row, column = faulty.nonzero()[0].tolist()
            raise InputError(
                f"column {names[column]!r}: {columns[row, column]:g} is too large for float32, which the steps are"
                " taken in; rescale the column"
            )
        return result

    def to_own_units(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the model's weight ``(P,)`` and bias ``()`` into the columns' own units, float64."""
        if self.mean is None or self.scale is None or self.model_wants_own_units:
            return weight.double(), bias.double()
        return to_own_units(weight, bias, self.mean, self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must carry to be used on other rows; plain values only."""
        state: dict[str, Any] = {"feature_names": self.feature_names, "target_name": self.target_name}
        if self.mean is not None and self.scale is not None:
            state |= {"mean": self.mean.tolist(), "scale": self.scale.tolist()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the moments from a checkpoint.

        Raises:
            InputError: the checkpoint was made for other columns.
        """
        if state_dict["feature_names"] != self.feature_names:
            raise InputError(
                f"the checkpoint was made for the features {state_dict['feature_names']},"
                f" not {self.feature_names}: set --data.features"
            )
        self._rows.clear()
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
        return self._loader(self.rows("train"), self.batch_size, self.seed, self._position)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Validation rows in order; an empty list where there are none."""
        return self.blocks("val") if self.num_rows("val") else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test rows in order."""
        return self.blocks("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Rows to predict, in order."""
        return self.blocks("predict")

    def first_mini_batches(self, count: int) -> Tensor:
        """Features of the first ``count`` whole mini-batches of epoch 0, shape ``(k, B, P)``, k at most ``count``."""
        X = self.rows("train").X
        size = min(self.batch_size, len(X))
        count = min(count, len(X) // size)
        order = permutation(len(X), self.seed, epoch=0)[: count * size]
        return X[order].reshape(count, size, -1)

    def blocks(self, part: Part, own_units: bool | None = None) -> DataLoader[Batch]:
        """Load a part in order, in batches as large as is good for speed."""
        return self._loader(self.rows(part, own_units), rows_at_once(self.num_features + 1))

    def factors(self, part: Part) -> DataLoader[Tensor]:
        """Load triangular factors of ``[1 X y]`` of a part's blocks, in its own units, made by several threads."""
        return DataLoader(_Factors(self.in_own_units(part)), batch_size=None, collate_fn=unchanged)

    def in_own_units(self, part: Part) -> Iterable[Batch]:
        """This process's share of a part, block by block in order."""
        return self.blocks(part, own_units=True)

    def _loader(
        self,
        rows: Rows,
        batch_size: int,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] = start_of_epoch_zero,
    ) -> DataLoader[Batch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = MiniBatches(len(rows), batch_size, rank, world_size, seed, position)
        return MiniBatchLoader(
            rows,
            batch_size=None,
            sampler=order,  # an item is a whole mini-batch
            collate_fn=unchanged,
            generator=torch.Generator(),  # leaves the global generator alone
        )

    def _chunks(self) -> DataLoader[Chunk]:
        assert self.trainer is not None
        trainer = self.trainer

        def position() -> tuple[int, int]:  # in mini-batches; the Trainer counts chunks
            epoch = trainer.current_epoch
            return epoch, max(0, trainer.global_step - epoch * len(batches))

        batches = MiniBatches(
            self.num_rows("train"), self.batch_size, trainer.global_rank, trainer.world_size, self.seed, position
        )
        by_moments = trainer.world_size > 1 or trainer.strategy.root_device.type != "cpu"
        steps = steps_per_chunk(len(batches), self.batch_size, self.num_features, by_moments)
        divisor: int = trainer.lightning_module.chunk_divisor  # type: ignore[assignment]
        return DataLoader(Chunks(batches, steps, divisor), batch_size=None, collate_fn=unchanged)

    def _position(self) -> tuple[int, int]:
        """Epoch and mini-batches done in it, by the Trainer's own count; also right after a resume."""
        if self.trainer is None:
            return 0, 0
        if self.trainer.overfit_batches:  # type: ignore[attr-defined]  # the same mini-batches every epoch
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
