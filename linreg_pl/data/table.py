"""A table of one's own: CSV, Parquet or Feather."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.base import DataModule, Part
from linreg_pl.data.reading import looks_numeric, numeric_column, read_table, require_columns
from linreg_pl.data.sampling import seeded_generator
from linreg_pl.errors import InputError


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
        self._table = read_table(self.path)
        present = self._table.column_names
        if features is None:
            numeric = [name for name in present if looks_numeric(self._table.column(name))]
            self.feature_names = [name for name in numeric if name != target]
        else:
            require_columns("--data.features", features, self.path, present)
            self.feature_names = list(features)
        if not self.feature_names:
            raise InputError(f"{self.path}: has no numeric column besides the target {target!r} (--data.features)")
        if target in self.feature_names:
            raise InputError(f"--data.features: contains the target {target!r}")

    @property
    def left_out(self) -> list[str]:
        """Columns that are neither features nor target."""
        return [name for name in self._table.column_names if name not in (*self.feature_names, self.target_name)]

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        """All rows: X ``(N, P)`` and y ``(N, 1)``, float64, or float32 where the file has nothing wider."""
        X = [numeric_column(self._table, name, self.path) for name in self.feature_names]
        return torch.from_numpy(np.stack(X, axis=1)), self._target()

    def _target(self) -> Tensor:
        if self.trainer is not None and self.trainer.predicting:
            return torch.full((self._table.num_rows, 1), torch.nan)  # new rows need no target
        require_columns("--data.target", [self.target_name], self.path, self._table.column_names)
        return torch.from_numpy(numeric_column(self._table, self.target_name, self.path).copy()).reshape(-1, 1)

    @cached_property
    def _membership(self) -> dict[Part, Tensor]:
        """Row numbers of every part, ascending."""
        count = self._table.num_rows
        order = torch.randperm(count, generator=seeded_generator(self.seed, "split"))
        num_val, num_test = (round(fraction * count) for fraction in self.fractions.values())
        val, test, train = order.split([num_val, num_test, count - num_val - num_test])
        return {"train": train.sort().values, "val": val.sort().values, "test": test.sort().values}

    def own_units(self, part: Part) -> tuple[Tensor, Tensor]:
        """Rows of a part in the order of the file; predict uses them all."""
        X, y = self._columns
        if self.num_rows(part) == len(y):
            return X, y
        return X[self._membership[part]], y[self._membership[part]]

    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part."""
        return self._table.num_rows if part == "predict" else len(self._membership[part])

    def how_to_get_rows(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""
        return "use fewer for validation and testing" if part == "train" else f"set --data.{part}_fraction"
