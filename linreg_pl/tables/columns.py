"""Turns the columns of a table into the columns of X, or says in one sentence why a value cannot be used."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linreg_pl.tables import arrow as pa
from linreg_pl.tables.sources import Piece, Source
from linreg_pl.tables.values import TimeUnit, as_text, fault, is_missing, numbers

Missing = Literal["error", "drop", "mean"]
Unknown = Literal["error", "ignore"]
MAX_COLUMNS = 10_000  # of X


@dataclass
class Columns:
    """How the columns of a table become the columns of X.

    Attributes:
        features: names of the columns, in the order of X.
        levels: levels of the categorical columns, as text, the reference level first. A column with L levels
            becomes L - 1 columns of X, named ``column=level``, of ones and zeros (treatment coding).
        means: replacements for the missing values of each column, used where ``missing`` is "mean".
        missing: what to do about missing values.
        unknown: what to do about a level that is not in ``levels``; "ignore" treats it as the reference level.
        time_unit: the unit in which dates and times are counted, from 1970-01-01 00:00 UTC.
    """

    features: list[str]
    levels: dict[str, list[str]] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    missing: Missing = "error"
    unknown: Unknown = "error"
    time_unit: TimeUnit = "days"

    @property
    def texts(self) -> list[str]:
        """Columns whose values are levels, not numbers."""
        return list(self.levels)

    @property
    def without_levels(self) -> list[str]:
        """Columns whose levels are still to be learned from the training rows."""
        return [name for name, levels in self.levels.items() if not levels]

    @property
    def is_learned(self) -> bool:
        """Whether nothing but means is still to be learned from the training rows."""
        return not self.without_levels

    @property
    def target(self) -> str:
        """Name of the target, if the columns tell."""
        return ""

    @property
    def text(self) -> str | None:
        """The formula, if there is one."""
        return None

    @property
    def intercept(self) -> bool | None:
        """Whether there is to be an intercept; None if the columns do not tell."""
        return None

    def learn(self, source: Source, training: Callable[[], Iterator[tuple[Piece, NDArray[np.bool_]]]]) -> None:
        """Learn what only formulas need, from the pieces of the table, with which of their rows are for training."""

    def target_columns(self, target: str) -> list[str]:
        """Columns of the table that the target is made of; of a column besides that column alone."""
        return [target]

    def reads(self, others: Sequence[str]) -> list[str]:
        """Columns of the table that are needed for X and for others, of which one may be the target."""
        needed = [column for name in others for column in self.target_columns(name)]
        return list(dict.fromkeys([*self.features, *needed]))

    @property
    def names(self) -> list[str]:
        """Names of the columns of X."""
        groups = [
            [f"{name}={level}" for level in self.levels[name][1:]] if name in self.levels else [name]
            for name in self.features
        ]
        return [name for group in groups for name in group]

    def design(self, source: Source, piece: Piece, others: Sequence[str] = ()) -> NDArray[np.floating]:
        """Return the columns of X, then the other columns, for the rows of a piece: shape ``(k, n)``.

        The result is float32 if no column in the file is wider than that, else float64. A missing value is NaN
        if rows with missing values are to be dropped.

        Args:
            source: the table that the piece is from.
            piece: consecutive rows of the table.
            others: numeric columns besides the features; their missing values are never replaced.

        Raises:
            InputError: a value cannot be used; the message names file, column and row (the first row is 1).
        """
        kinds = [piece.batch.schema.field(name).type for name in (*self.features, *others) if name not in self.levels]
        dtype = np.float32 if all(kind in ("float16", "float32") for kind in kinds) else np.float64
        result = np.empty((len(self.names) + len(others), piece.batch.num_rows), dtype=dtype)
        unknown: dict[str, NDArray[np.bool_]] = {}
        row = 0
        for name in self.features:
            if name in self.levels:
                width = len(self.levels[name]) - 1
                unknown[name] = self._one_hot(result[row : row + width], source, piece, name)
            else:
                width = 1
                result[row] = self._numbers(source, piece, name, self.means.get(name))
            row += width
        for name in others:
            result[row] = self._numbers(source, piece, name, None)
            row += 1
        if self.unknown == "error":
            for name, rows in unknown.items():
                if rows.any() and (kept := rows & ~np.isnan(result).any(axis=0)).any():
                    row = int(kept.argmax())
                    self._refuse_unknown(source, piece, name, row, as_text(piece.batch.column(name))[row].as_py())
        return result

    def _numbers(self, source: Source, piece: Piece, name: str, mean: float | None) -> NDArray[np.floating]:
        values = numbers(source, piece, name, self.time_unit)
        if not (finite := np.isfinite(values)).all():
            absent = np.isnan(values)
            if (infinite := ~finite & ~absent).any():
                row = int(infinite.argmax())
                raise fault(source, piece, name, row, f"{values[row]} is not a finite number")
            if self.missing == "mean" and mean is not None:
                return np.where(absent, values.dtype.type(mean), values)
            self._check_missing(source, piece, name, absent)
        return values

    def _texts(self, source: Source, piece: Piece, name: str) -> "tuple[pa.Array, NDArray[np.bool_]]":
        """Return the values of a column as text, and which of them are missing."""
        absent = is_missing(piece.batch.column(name))
        self._check_missing(source, piece, name, absent)
        return as_text(piece.batch.column(name)), absent

    def _check_missing(self, source: Source, piece: Piece, name: str, absent: NDArray[np.bool_]) -> None:
        mend = (
            "only numeric features are replaced by their mean; --data.missing drop leaves such rows out"
            if self.missing == "mean"
            else "fill it in, or set --data.missing drop or mean"
        )
        if self.missing != "drop" and absent.any():
            raise fault(source, piece, name, int(absent.argmax()), f"the value is missing; {mend}")

    def _refuse_unknown(self, source: Source, piece: Piece, name: str, row: int, value: object) -> None:
        known = ", ".join(map(repr, self.levels[name][:10]))
        what = (
            f"{value!r} is not among the levels of the training rows"
            f" ({known}); --data.unknown ignore takes it for the reference level"
        )
        raise fault(source, piece, name, row, what)

    def _one_hot(self, result: NDArray[np.floating], source: Source, piece: Piece, name: str) -> NDArray[np.bool_]:
        """Write ones and zeros, and NaN for missing values; return which values are no levels."""
        texts, absent = self._texts(source, piece, name)
        codes = pa.compute.index_in(texts, value_set=pa.array(self.levels[name], pa.string()), skip_nulls=True)
        codes = codes.fill_null(-1).to_numpy(zero_copy_only=False)
        for code, target in enumerate(result, start=1):
            target[:] = codes == code
        result[:, absent] = np.nan
        unknown: NDArray[np.bool_] = (codes < 0) & ~absent
        return unknown
