"""The user's own table: files of any form, here or elsewhere, or what a database selects."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from linreg_pl.data import roles, survey
from linreg_pl.data.base import DataModule
from linreg_pl.data.batch import Batch
from linreg_pl.data.parts import Part
from linreg_pl.data.sampling import Split
from linreg_pl.errors import InputError, require_positive
from linreg_pl.tables.columns import Missing, Unknown
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.sources import Piece, require_columns
from linreg_pl.tables.values import TimeUnit


class Table(DataModule):
    """Rows of CSV, JSON lines, Parquet or Feather files, or of a database.

    Args:
        path: a file, a folder, a pattern such as ``houses/*.parquet``, or a database; see `open_table`.
        target: name of the column to explain.
        formula: instead of target, features, categorical and levels: such as ``log(price) ~ rooms + C(city) * age``,
            as `formulaic <https://matthewwardrop.github.io/formulaic>`_ reads it, or what a checkpoint keeps of one.
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
        standardize: give the model columns of mean 0 and standard deviation 1; reports stay in the table's units.
        batch_size: rows in one SGD mini-batch, over all processes.
        val_fraction: share of the rows kept for validation.
        test_fraction: share of the rows kept for testing.
        seed: decides which rows are kept and the order of the rest.
        memory: MiB of training rows that SGD keeps in memory. More are in a temporary file while the fit lasts.
        clusters: names of one or two columns, whose rows of the same value make a cluster for ``--covariance cluster``.
        groups: names of columns; rows of the same values stay in one fold of `ElasticNet`'s cross-validation.
        reading: the form of CSV files and the query of a database; see `Reading`.
    """

    def __init__(
        self,
        path: str,
        target: str | None = None,
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
        clusters: Sequence[str] = (),
        groups: Sequence[str] = (),
        formula: str | dict[str, Any] | None = None,
        **reading: Any,
    ) -> None:
        super().__init__(batch_size, seed, standardize)
        require_positive("--data.memory", memory)
        survey.check_fractions(val_fraction, test_fraction)
        self.memory, self.weights, self.weighted = memory, weights, weights is not None
        self.ids, self.clusters, self.groups = list(ids), list(clusters), list(groups)
        coded = roles.coded_columns(categorical, formula)
        self.source = open_table(path, categorical=coded, reading=Reading(**reading))
        for flag, names in {"categorical": categorical, "ids": ids, "clusters": clusters, "groups": groups}.items():
            require_columns(f"--data.{flag}", names, self.source)
        how: dict[str, Any] = {"missing": missing, "unknown": unknown, "time_unit": time_unit}
        named = {"target": target, "features": features, "categorical": categorical, "levels": levels or {}}
        self.columns = (
            roles.named_columns(self.source, (weights, *ids), **named, **how)  # type: ignore[arg-type]
            if formula is None
            else roles.formula_columns(self.source, (weights, *ids, *clusters, *groups), formula, named, **how)
        )
        self.target_name = target or self.columns.target
        self.formula, self.intercept = self.columns.text, self.columns.intercept
        roles.check_others(weights, ids, self.columns.reads([self.target_name]))
        roles.check_clusters(self.source, self.clusters, self.groups, self.columns.target_columns(self.target_name))
        self.group_keys = partial(survey.group_keys, self.source, self.groups) if groups else None
        self.mean_weight, self._surveyed = 1.0, False
        self.split = Split(self.source.num_rows, (val_fraction, test_fraction), seed)
        held_out = self.split.counts()
        self.counts = dict(zip(survey.PARTS, (self.source.num_rows - sum(held_out), *held_out), strict=True))
        self.missing_counts: dict[str, int] = {}
        if not self.columns.is_learned:
            self._survey(learn=True)
        roles.check_names(path, self.feature_names)

    @property
    def feature_names(self) -> list[str]:  # type: ignore[override]
        """Names of the columns of X."""
        return self.columns.names

    @property
    def num_table_rows(self) -> int:
        """Rows of the table."""
        return self.source.num_rows

    @property
    def left_out(self) -> list[str]:
        """Columns that are not used."""
        used = {*self.columns.reads([self.target_name]), self.weights, *self.ids}
        return [name for name in self.source.schema.names if name not in used]

    def _require_others(self) -> None:
        require_columns("--data.target", self.columns.target_columns(self.target_name), self.source)
        require_columns("--data.weights", self._others[1:], self.source)

    @property
    def _others(self) -> list[str]:
        """Columns read besides the features, except to predict."""
        return [self.target_name, *([self.weights] if self.weights else [])]

    @property
    def predicts_weighted(self) -> bool:  # type: ignore[override]
        """Whether a table to predict has the weights: they tell how far a target may lie from its prediction."""
        return self.weights in self.source.schema.names

    def setup(self, stage: str | None = None) -> None:
        """Pass over the table first, if something has to be learned from all of it or counted."""
        stage = stage or "fit"
        if self.share[1] > 1 and len({*self.of_all_processes(self.source.digest())}) > 1:
            raise InputError(f"{self.source.name}: processes got different rows: add an order by to --data.query")
        if stage != "predict":
            self._require_others()
            changed = ("drop", "mean") if stage == "fit" else ("drop",)
            if not self._surveyed and (self.weighted or self.columns.missing in changed):
                self._survey(learn=stage == "fit")
        super().setup(stage)

    def _survey(self, learn: bool) -> None:
        """Count missing values and rows; of the training rows learn levels, means and the mean weight."""
        self._require_others()
        found = survey.survey(self.source, self.columns, self._others, self.split)
        self.missing_counts = found.missing
        if self.columns.missing != "error" or self.weighted:
            self.counts = dict(zip(survey.PARTS, found.rows, strict=True))
        if learn:
            self.columns.levels |= found.levels
            if self.columns.missing == "mean":
                self.columns.means = {name: found.means[name] for name in self.columns.features if name in found.means}
            if self.weights is not None:
                self.mean_weight = found.means[self.weights]
            training = partial(survey.training_rows, self.source, self.columns, self._others, self.split)
            self.columns.learn(self.source, training)
            survey.check_learned(self.columns, self.weights, self.mean_weight)
        self._surveyed = True

    def delayed_blocks(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield the blocks of a part in the order of the file; predict takes all rows and needs no target."""
        others, ids = self._others, self.carried if part == "train" else None
        if part == "predict":
            others, ids = self._others[1:] * self.predicts_weighted, self.ids or None
        names = list(dict.fromkeys([*self.columns.reads(others), *(ids or ())]))
        return (
            partial(self._batch, part, piece, others, ids)
            for piece in survey.read(self.source, names, rank, world_size)
        )

    def _batch(self, part: Part, piece: Piece, others: list[str], ids: Sequence[str] | None) -> Batch:
        predicting, width = part == "predict", self.num_features
        values = torch.from_numpy(self.columns.design(self.source, piece, others))
        rows = slice(piece.start, piece.start + piece.batch.num_rows)
        carry = survey.carried_columns if predicting else survey.numbers_and_keys
        carried = None if ids is None else carry(self.source, piece, ids)
        kept = torch.ones(values.shape[1], dtype=torch.bool)
        if not predicting:
            if any(self.split.fractions):
                kept &= self.split.parts(rows.start, rows.stop) == survey.PARTS.index(part)
            if self.columns.missing == "drop":
                kept &= ~values.isnan().any(dim=0)
            if self.weighted:
                kept &= values[width + 1] != 0
        if not kept.all():
            values = values[:, kept]
            carried = None if carried is None else carried.filter(kept.numpy())
        y = torch.full((values.shape[1], 1), torch.nan) if predicting else values[width : width + 1].mT
        weight = values[-1:].mT if self.weights in others else None
        if weight is not None:
            survey.require_weights(f"{self.source.name}: column {self.weights!r}", weight)
            weight = weight / self.mean_weight
        return Batch(values[:width].mT, y, weight, rows=rows, ids=carried)

    @property
    def missing_values(self) -> dict[str, Any]:
        """What was missing and what became of it; empty where nothing was."""
        columns = {name: count for name, count in self.missing_counts.items() if count}
        left_out = self.source.num_rows - sum(self.counts.values())
        return {"columns": columns, "done": self.columns.missing, "rows_left_out": left_out} if columns else {}

    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part, without those dropped once that is known."""
        return self.source.num_rows if part == "predict" else self.counts[part]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must carry to be used on other tables; plain values only."""
        return super().state_dict() | {
            "columns": asdict(self.columns),
            "kinds": roles.column_kinds(self.source, self.columns),
            "mean_weight": self.mean_weight,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take levels, means and moments from a checkpoint, or raise InputError if it was made for other columns."""
        kinds, mine = roles.column_kinds(self.source, self.columns), self.columns
        self.columns = roles.columns_as_saved(state_dict["columns"], mine)
        if self.columns != mine:
            self._forget_rows()
        super().load_state_dict(state_dict)
        for name, kind in state_dict["kinds"].items():
            if kinds[name] != kind:
                raise InputError(
                    f"{self.source.name}: column {name!r} holds {kinds[name]}, but the checkpoint was made with {kind}"
                )
        self.mean_weight = state_dict["mean_weight"]

    def empty_part_hint(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""
        if part != "train":
            return f"set --data.{part}_fraction"
        worst = max(self.missing_counts, key=self.missing_counts.__getitem__, default="")
        if self.missing_counts.get(worst) == self.source.num_rows:
            return f"column {worst!r} has no values at all"
        return "use fewer for validation and testing"
