"""A table of one's own: CSV, Parquet or Feather."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.base import DataModule, Part
from linreg_pl.data.columns import (
    Columns,
    Missing,
    TimeUnit,
    Unknown,
    as_text,
    can_be_levels,
    decoded,
    described,
    find_levels,
    is_missing,
    is_time,
    numbers,
    numeric_names,
)
from linreg_pl.data.rows import Batch
from linreg_pl.data.sampling import Split
from linreg_pl.data.sources import Piece, open_table, require_columns
from linreg_pl.data.threads import return_memory
from linreg_pl.errors import InputError, require_positive
from linreg_pl.progress import watched

PARTS = ("train", "val", "test")
DROPPED = len(PARTS)  # the number of a part that is none
PREDICTED = ("row", "prediction", "standard_error", "low", "high")  # columns of the predictions
MAX_COLUMNS = 10_000


class Table(DataModule):
    """Rows of CSV, Parquet or Feather files.

    Args:
        path: a file, a folder of files, or a pattern such as ``houses/*.parquet``.
        target: name of the column to explain.
        features: names of the columns to explain it by; by default every numeric column
            but the target, and the categorical ones.
        categorical: names of the columns whose values are levels: each level but the first,
            the reference, becomes a column of ones and zeros.
        levels: levels of categorical columns, the reference first; by default those of the
            training rows, in their order.
        weights: name of a column of weights: how much the squared error of a row counts.
        ids: names of columns that go along into the predictions.
        missing: what to do about missing values: refuse them, drop their rows, or fill in the mean
            of the training rows (of features; never of the target).
        unknown: what to do about a level that no training row has: refuse it, or take it for the reference.
        time_unit: dates and times count as these since 1970-01-01 00:00 UTC.
        standardize: give the model columns of mean 0 and standard deviation 1; the report
            and the predictions stay in the table's own units.
        batch_size: rows in one SGD mini-batch, over all processes.
        val_fraction: share of the rows kept for validation.
        test_fraction: share of the rows kept for testing.
        seed: decides which rows are kept and the order of the rest.
        memory: MiB of training rows that SGD keeps in memory. More are written to a file in the folder
            for temporary files (TMPDIR) while the fit lasts.
    """

    def __init__(
        self,
        path: str,
        target: str,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] = (),
        levels: dict[str, list[str]] | None = None,
        weights: str | None = None,
        ids: Sequence[str] = (),
        missing: Missing = "error",
        unknown: Unknown = "error",
        time_unit: TimeUnit = "days",
        standardize: bool = True,
        batch_size: int = 32,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        seed: int = 0,
        memory: int = 256,
    ) -> None:
        super().__init__(batch_size, seed, standardize)
        require_positive("--data.memory", memory)
        for flag, fraction in (("val", val_fraction), ("test", test_fraction)):
            if not 0 <= fraction < 1:
                raise InputError(f"--data.{flag}_fraction {fraction}: must be at least 0 and less than 1")
        if val_fraction + test_fraction >= 1:
            raise InputError("--data.val_fraction and --data.test_fraction: leave no rows to train on")
        self.memory = memory
        self.target_name = target
        self.weights = weights
        self.weighted = weights is not None
        self.ids = list(ids)
        self.source = open_table(path)
        for flag, names in (("categorical", categorical), ("ids", ids)):
            require_columns(f"--data.{flag}", names, self.source)
        if features is None:
            numeric = numeric_names(self.source)
            usable = [name for name in self.source.schema.names if name in numeric or name in categorical]
            features = [name for name in usable if name not in (target, weights, *ids)]
        self._check_roles(features, categorical)
        known = {name: levels[name] for name in categorical if levels and name in levels}
        for name in [name for name in features if name in categorical]:
            known.setdefault(name, [])
        self.columns = Columns(list(features), {n: list(v) for n, v in known.items()}, {}, missing, unknown, time_unit)
        self.mean_weight = 1.0
        self.split = Split(self.source.num_rows, (val_fraction, test_fraction), seed)
        held_out = self.split.counts()
        self.counts = dict(zip(PARTS, (self.source.num_rows - sum(held_out), *held_out), strict=True))
        self.missing_counts: dict[str, int] = {}
        self._surveyed = False
        if any(not found for found in self.columns.levels.values()):
            self._survey(learn=True)
        for name in self.feature_names:
            if name == "bias" or self.feature_names.count(name) > 1:
                what = "the name of the intercept in every report" if name == "bias" else "the name of two columns of X"
                raise InputError(f"{path}: {name!r} is {what}; rename the column")

    def _check_roles(self, features: Sequence[str], categorical: Sequence[str]) -> None:
        require_columns("--data.features", features, self.source)
        if not features:
            raise InputError(
                f"{self.source.name}: has no numeric column besides the target {self.target_name!r}"
                f" (--data.features, --data.categorical); it has {described(self.source)}"
            )
        if "" in features:
            raise InputError(
                f"{self.source.name}: a column has no name, as an index that was saved along:"
                " name it, or leave it out of --data.features"
            )
        for name in categorical:
            if not can_be_levels(self.source.schema.field(name).type):
                raise InputError(
                    f"{self.source.name}: column {name!r} is of type {self.source.schema.field(name).type},"
                    " whose values cannot be levels"
                )
        if apart := [name for name in categorical if name not in features]:
            raise InputError(f"--data.categorical: {apart[0]!r} is not among --data.features")
        if taken := [name for name in self.ids if name in PREDICTED]:
            raise InputError(f"--data.ids: the predictions have a column {taken[0]!r} of their own; rename yours")
        if self.target_name in features:
            raise InputError(f"--data.features: contains the target {self.target_name!r}")
        if self.weights in (self.target_name, *features):
            raise InputError(f"--data.weights {self.weights}: is also the target or a feature")

    @property
    def feature_names(self) -> list[str]:  # type: ignore[override]
        """Names of the columns of X."""
        return self.columns.names

    @property
    def left_out(self) -> list[str]:
        """Columns that are not used."""
        used = {*self.columns.features, self.target_name, self.weights, *self.ids}
        return [name for name in self.source.schema.names if name not in used]

    def _require_others(self) -> None:
        require_columns("--data.target", [self.target_name], self.source)
        require_columns("--data.weights", self._others[1:], self.source)

    @property
    def _others(self) -> list[str]:
        """Columns read besides the features, except to predict."""
        return [self.target_name, *([self.weights] if self.weights else [])]

    def setup(self, stage: str) -> None:
        """Look through the table first, where something is to be learned or counted in all of it."""
        if stage != "predict":
            self._require_others()
        dropping = self.columns.missing == "drop"
        if not self._surveyed:
            if stage == "fit" and (self.weighted or self.columns.missing != "error"):
                self._survey(learn=True)
            elif stage in ("validate", "test") and dropping:
                self._survey(learn=False)
        if self.streamed("train") and not self.model_wants_own_units:
            return_memory()
        super().setup(stage)

    def _survey(self, learn: bool) -> None:
        """Count missing values and rows; of the training rows learn levels, means and the mean weight."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._require_others()
        columns, whole = self.columns, self.columns.missing != "error"
        wanted = [name for name, levels in columns.levels.items() if not levels]
        names = [*columns.features, *self._others] if whole else [*wanted, *self._others[1:]]
        seen: dict[str, pa.Array] = {}
        sums, present = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        self.missing_counts = dict.fromkeys(names, 0)
        rows = np.zeros(len(PARTS), np.int64)
        for piece in self._read(names):
            values = {
                name: numbers(self.source, piece, name, columns.time_unit)
                for name in names
                if name not in columns.levels
            }
            absent = {
                name: np.isnan(values[name]) if name in values else is_missing(piece.batch.column(name))
                for name in names
            }
            parts = self.split.parts(piece.start, piece.start + piece.batch.num_rows).numpy()
            if columns.missing == "drop":
                parts[np.any(list(absent.values()), axis=0)] = DROPPED
            training = parts == 0
            rows += np.bincount(parts, minlength=DROPPED + 1)[: len(PARTS)]
            for name in names:
                self.missing_counts[name] += int(absent[name].sum())
            for name, column in values.items():
                used = training & ~absent[name]
                sums[name] += float(column[used].sum(dtype=np.float64))
                present[name] += int(used.sum())
            for name in wanted:
                found = decoded(piece.batch.column(name)).filter(pa.array(training & ~absent[name]))
                if name in seen and seen[name].type != found.type:  # from several files
                    seen[name], found = as_text(seen[name]), as_text(found)
                seen[name] = pc.unique(pa.concat_arrays([*([seen[name]] if name in seen else []), found]))
        if whole:
            self.counts = dict(zip(PARTS, rows.tolist(), strict=True))
        if learn:
            columns.levels |= find_levels(seen)
            if columns.missing == "mean":
                columns.means = {name: sums[name] / max(present[name], 1) for name in columns.features if name in sums}
            if self.weights is not None:
                self.mean_weight = sums[self.weights] / max(present[self.weights], 1)
            self._check_learned()
        self._surveyed = True

    def _check_learned(self) -> None:
        for name, levels in self.columns.levels.items():
            if len(levels) < 2:
                raise InputError(f"column {name!r} has one value only: leave it out of --data.categorical")
        if len(self.columns.names) > MAX_COLUMNS:
            worst = max(self.columns.levels, key=lambda name: len(self.columns.levels[name]))
            raise InputError(
                f"column {worst!r} has {len(self.columns.levels[worst])} levels, each a column of its own: that is too"
                " many; leave it out of --data.categorical"
            )
        if not self.mean_weight > 0:
            raise InputError(f"column {self.weights!r}: the weights of the training rows are all zero")

    def promises(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield the blocks of a part in the order of the file; predict takes all rows and needs no target."""
        others, ids = ([], self.ids) if part == "predict" else (self._others, [])
        names = list(dict.fromkeys([*self.columns.features, *others, *ids]))
        return (partial(self._batch, part, piece, others, ids) for piece in self._read(names, rank, world_size))

    def _batch(self, part: Part, piece: Piece, others: list[str], ids: list[str]) -> Batch:
        predicting, width = part == "predict", self.num_features
        values = torch.from_numpy(self.columns.design(self.source, piece, others))
        rows = slice(piece.start, piece.start + piece.batch.num_rows)
        if not predicting and any(self.split.fractions):
            values = values[:, self.split.parts(rows.start, rows.stop) == PARTS.index(part)]
        if self.columns.missing == "drop" and not predicting:
            values = values[:, ~values.isnan().any(dim=0)]
        count = values.shape[1]
        y = torch.full((count, 1), torch.nan) if predicting else values[width : width + 1].mT
        weight = self._weight(values[width + 1 :].mT) if self.weighted and not predicting else None
        return Batch(values[:width].mT, y, count, rows, weight, self._carried(piece, ids) if ids else None)

    def _carried(self, piece: Piece, ids: list[str]) -> Any:  # pa.RecordBatch
        """Columns that travel along, each of the same type in all files."""
        import pyarrow as pa

        columns = {name: (piece.batch.column(name), self.source.kind(name)) for name in ids}
        same = {name: x if x.type == kind else decoded(x).cast(kind) for name, (x, kind) in columns.items()}
        return pa.RecordBatch.from_pydict(same)

    def _read(self, names: list[str], rank: int = 0, world_size: int = 1) -> Iterator[Piece]:
        pieces = self.source.pieces(names, rank, world_size)
        return watched(pieces, self.source.num_rows // world_size, self.source.name)

    @property
    def missing_values(self) -> dict[str, Any]:
        """What was missing and what became of it; empty where nothing was."""
        columns = {name: count for name, count in self.missing_counts.items() if count}
        left_out = self.source.num_rows - sum(self.counts.values())
        return {"columns": columns, "done": self.columns.missing, "rows_left_out": left_out} if columns else {}

    def _weight(self, weight: Tensor) -> Tensor:
        if (weight < 0).any():
            raise InputError(
                f"{self.source.name}: column {self.weights!r} has a negative weight, {float(weight.min()):g}:"
                " weights are zero or above"
            )
        return weight / self.mean_weight

    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part, without those dropped once that is known."""
        return self.source.num_rows if part == "predict" else self.counts[part]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must carry to be used on other tables; plain values only."""
        return super().state_dict() | {
            "columns": asdict(self.columns),
            "kinds": self._kinds(),
            "mean_weight": self.mean_weight,
        }

    def _kinds(self) -> dict[str, str]:
        schema = self.source.schema
        return {
            name: "levels"
            if name in self.columns.levels
            else "times"
            if is_time(schema.field(name).type)
            else "numbers"
            for name in self.columns.features
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take levels, means and moments from a checkpoint.

        Raises:
            InputError: the checkpoint was made for other columns.
        """
        columns, kinds, mine = Columns(**state_dict["columns"]), self._kinds(), self.columns
        if columns.time_unit != mine.time_unit:
            raise InputError(
                f"--data.time_unit {mine.time_unit}: the checkpoint was made with {columns.time_unit};"
                " leave the flag out"
            )
        if mine.missing == "mean" and columns.missing != "mean":
            raise InputError(
                "--data.missing mean: the checkpoint holds no means, for the fit did not fill in missing values;"
                " use drop"
            )
        if sorted(columns.features) == sorted(mine.features):
            self.columns = replace(columns, missing=mine.missing, unknown=mine.unknown)  # in its order
        super().load_state_dict(state_dict)
        for name, kind in state_dict["kinds"].items():
            if kinds[name] != kind:
                raise InputError(
                    f"{self.source.name}: column {name!r} holds {kinds[name]}, but the checkpoint was made with {kind}"
                )
        self.mean_weight = state_dict["mean_weight"]

    def how_to_get_rows(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""
        if part != "train":
            return f"set --data.{part}_fraction"
        worst = max(self.missing_counts, key=self.missing_counts.__getitem__, default="")
        if self.missing_counts.get(worst) == self.source.num_rows:
            return f"column {worst!r} has no values at all"
        return "use fewer for validation and testing"
