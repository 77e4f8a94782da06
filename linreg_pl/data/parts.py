"""Rows in parts, as a table or a formula gives them: raw, in blocks, with names."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, TypeVar

import lightning.pytorch as L
import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.data.sampling import Sample
from linreg_pl.errors import InputError

T = TypeVar("T")
Part = Literal["train", "val", "test", "predict"]


class RowsInParts(L.LightningDataModule, ABC):
    """Rows for training, validation, testing and prediction, in blocks, with names and raw units."""

    feature_names: list[str]  # of the columns of X
    target_name: str
    formula: str | None = None  # that made the columns
    intercept: bool | None = None  # whether it has one; None where no formula tells
    weighted = False  # whether training rows have weights
    predicts_weighted = False  # whether rows to predict have them
    truth: tuple[list[float], float] | None = None  # weights and bias that the data were made with
    sample: Sample | None = None  # draws some of the training rows while they are read

    def require_bias(self, has_bias: bool) -> None:
        """Raise InputError unless a model has a bias if the formula wants one, and none if not."""
        if self.intercept not in (None, has_bias):
            mend = "no intercept, the model has: give it bias=False" if has_bias else "an intercept: add - 1 to it"
            raise InputError(f"--data.formula: has {mend}")

    @abstractmethod
    def delayed_blocks(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield functions that make one process's share of the blocks of a part: raw rows, in order.

        Any thread may call them, so that threads decode while one reads.
        """

    @abstractmethod
    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part."""

    @abstractmethod
    def empty_part_hint(self, part: Part) -> str:
        """Say which argument gives a part rows, for the error that it has none."""

    @property
    def missing_values(self) -> dict[str, Any]:
        """What was missing and what was done about it; empty if nothing was missing."""
        return {}

    @property
    def num_features(self) -> int:
        """Number of columns of X."""
        return len(self.feature_names)

    @property
    def num_table_rows(self) -> int:
        """Number of the rows that training rows are counted among."""
        return self.num_rows("train")

    @property
    def share(self) -> tuple[int, int]:
        """The rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def raw(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return all features ``(n, P)`` and targets ``(n, 1)`` of a part, in raw units."""
        batches = [make() for make in self.delayed_blocks(part)]
        return torch.cat([batch.X for batch in batches]), torch.cat([batch.y for batch in batches])

    def sampled_blocks(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """`delayed_blocks`, or one without rows if there are none, for the Trainer needs a batch.

        Some of the training rows go to the sample.
        """
        make, sample = None, self.sample if part == "train" else None
        for make in self.delayed_blocks(part, rank, world_size):
            yield make if sample is None else partial(_tap_sample, sample, make)
        if make is None:
            yield self._no_rows

    def local_blocks(self, part: Part) -> Iterator[Callable[[], Batch]]:
        """This process's `sampled_blocks` of a part."""
        return self.sampled_blocks(part, *self.share)

    def _no_rows(self) -> Batch:
        weight = torch.empty(0, 1) if self.weighted else None
        return Batch(torch.empty(0, self.num_features), torch.empty(0, 1), weight, rows=slice(0, 0))

    def _of_first_process(self, value: T) -> T:
        """The value that process 0 has; all of them must ask."""
        return self.trainer.strategy.broadcast(value) if self.trainer else value

    def _barrier(self) -> None:
        if self.trainer:
            self.trainer.strategy.barrier()

    def of_all_processes(self, value: T) -> list[T]:
        """The values that all processes have, in their order; all of them must ask."""
        everyone = [value] * self.share[1]
        if len(everyone) > 1:
            torch.distributed.all_gather_object(everyone, value)
        return everyone

    def _any_process(self, has: object) -> bool:
        """Whether any process has something; all of them must ask."""
        return self.trainer.strategy.reduce_boolean_decision(bool(has), all=False) if self.trainer else bool(has)


def _tap_sample(sample: Sample, make: Callable[[], Batch]) -> Batch:
    return sample.add(make())
