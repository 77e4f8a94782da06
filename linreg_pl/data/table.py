"""A table of one's own: CSV, Parquet or Feather."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from linreg_pl.data.base import Batch, DataModule, Part, unchanged
from linreg_pl.data.reading import ahead, numbers, numeric_names, open_table, require_columns
from linreg_pl.data.sampling import seeded_generator
from linreg_pl.errors import InputError


class _Ahead(IterableDataset[Batch]):
    """Blocks read ahead by another thread."""

    def __init__(self, blocks: Iterable[Batch]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[Batch]:
        return ahead(iter(self.blocks))


class _Stream:
    """One process's share of a part, read from the file block by block."""

    def __init__(self, table: "Table", part: Part, rank: int, world_size: int) -> None:
        self.table, self.part, self.rank, self.world_size = table, part, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for X, y in self.table.pieces(self.part):
            share = slice(self.rank, len(y), self.world_size)
            rows = slice(start + self.rank, start + len(y), self.world_size)
            yield Batch(X[share], y[share], len(y), rows)
            start += len(y)


class Table(DataModule):
    """Rows of a CSV, Parquet or Feather file.

    Args:
        path: the file.
        target: name of the column to explain.
        features: names of the columns to explain it by; by default every numeric column
            but the target.
        standardize: give the model columns of mean 0 and standard deviation 1; the report
            and the predictions stay in the table's own units.
        batch_size: rows in one SGD mini-batch, over all processes.
        val_fraction: share of the rows kept for validation.
        test_fraction: share of the rows kept for testing.
        seed: decides which rows are kept and the order of the rest.
    """

    def __init__(
        self,
        path: str,
        target: str,
        features: Sequence[str] | None = None,
        standardize: bool = True,
        batch_size: int = 32,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, standardize)
        for flag, fraction in (("val", val_fraction), ("test", test_fraction)):
            if not 0 <= fraction < 1:
                raise InputError(f"--data.{flag}_fraction {fraction}: must be at least 0 and less than 1")
        if val_fraction + test_fraction >= 1:
            raise InputError("--data.val_fraction and --data.test_fraction: leave no rows to train on")
        self.path = Path(path)
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.target_name = target
        self._parts: dict[Part, tuple[Tensor, Tensor]] = {}
        self.source = open_table(self.path)
        if features is None:
            self.feature_names = [name for name in numeric_names(self.source) if name != target]
        else:
            require_columns("--data.features", features, self.source)
            self.feature_names = list(features)
        if not self.feature_names:
            raise InputError(f"{self.path}: has no numeric column besides the target {target!r} (--data.features)")
        if target in self.feature_names:
            raise InputError(f"--data.features: contains the target {target!r}")

    @property
    def left_out(self) -> list[str]:
        """Columns that are neither features nor target."""
        return [name for name in self.source.schema.names if name not in (*self.feature_names, self.target_name)]

    def pieces(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """Read a part from the file in order: X ``(n, P)`` and y ``(n, 1)``; predict takes all rows."""
        members = None if self.num_rows(part) == self.source.num_rows else self._membership[part]
        start = 0
        for X, y in self._all_pieces():
            stop = start + len(y)
            if members is None:
                yield X, y
            else:
                low, high = torch.searchsorted(members, torch.tensor([start, stop])).tolist()
                yield X[members[low:high] - start], y[members[low:high] - start]
            start = stop

    def _all_pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.trainer is not None and self.trainer.predicting:  # new rows need no target
            for X in numbers(self.source, self.feature_names):
                yield X, torch.full((len(X), 1), torch.nan)
        else:
            require_columns("--data.target", [self.target_name], self.source)
            for columns in numbers(self.source, [*self.feature_names, self.target_name]):
                yield columns[:, :-1], columns[:, -1:]

    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part."""
        count = self.source.num_rows
        held_out = {name: round(fraction * count) for name, fraction in self.fractions.items()}
        return {"predict": count, "train": count - sum(held_out.values()), **held_out}[part]

    @cached_property
    def _membership(self) -> dict[Part, Tensor]:
        """Row numbers of every part, ascending."""
        order = torch.randperm(self.source.num_rows, generator=seeded_generator(self.seed, "split"))
        val, test, train = order.split([self.num_rows(part) for part in ("val", "test", "train")])
        return {"train": train.sort().values, "val": val.sort().values, "test": test.sort().values}

    def own_units(self, part: Part) -> tuple[Tensor, Tensor]:
        """Rows of a part in the order of the file; predict uses them all."""
        if part not in self._parts:
            X, y = zip(*self.pieces(part), strict=True)
            self._parts[part] = torch.cat(X).contiguous(), torch.cat(y).contiguous()
        return self._parts[part]

    def blocks(self, part: Part, own_units: bool | None = None) -> DataLoader[Batch]:
        """Load a part in order; in its own units straight from the file, without keeping it in memory."""
        own_units = self.model_wants_own_units if own_units is None else own_units
        if not own_units or part in self._parts:
            return super().blocks(part, own_units)
        return DataLoader(_Ahead(self.in_own_units(part)), batch_size=None, collate_fn=unchanged)

    def in_own_units(self, part: Part) -> Iterable[Batch]:
        """This process's share of a part, block by block in order, straight from the file."""
        if part in self._parts:
            return super().in_own_units(part)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return _Stream(self, part, rank, world_size)

    def how_to_get_rows(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""
        return "use fewer for validation and testing" if part == "train" else f"set --data.{part}_fraction"
