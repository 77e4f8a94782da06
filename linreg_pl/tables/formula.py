"""Formulas such as ``log(price) ~ rooms + C(city) * age``, for tables of any size.

formulaic reads and encodes them, but takes levels, means, knots and the like from the first rows that it sees. Here,
passes over the training rows learn them first; then every piece of the table is encoded alike.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linreg_pl.tables.columns import Columns
from linreg_pl.tables.encoding import Encoder, evaluate
from linreg_pl.tables.expressions import Factor, Terms, learning_calls, read_formula
from linreg_pl.tables.sources import Piece, Source
from linreg_pl.tables.transforms import learn
from linreg_pl.tables.values import fault, is_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Formula(Columns):
    """A formula, and what it learned from the training rows.

    Attributes:
        features: names of the columns of the table that the right side uses.
        levels: levels of each factor that has some, by its text, in their order.
        formula: its text.
        available: the columns that ``.`` stands for, besides those of the left side.
        text_columns: those of the columns of the table that hold text.
        states: what functions such as ``poly`` learned, by their text, as formulaic keeps it.
    """

    formula: str = ""
    available: list[str] = field(default_factory=list)
    text_columns: list[str] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, formula: str, source: Source, available: Sequence[str], **options: Any) -> "Formula":
        """Read a formula for a table; options are ``missing``, ``unknown`` and ``time_unit``.

        Raises:
            InputError: the formula cannot be used.
        """
        terms = read_formula(formula, tuple(available))
        features = list(dict.fromkeys(name for factor in terms.right_factors for name in factor.columns))
        result = cls(features, formula=formula, available=list(available), **options)
        names = [name for name in source.schema.names if name in result.reads([result.target])]
        result.text_columns = [name for name in names if is_text(source.kind(name))]
        result.levels = {factor.text: factor.levels for factor in terms.factors if factor.levels}
        return result

    @cached_property
    def terms(self) -> Terms:
        """The formula as it was read."""
        return read_formula(self.formula, tuple(self.available))

    @property
    def target(self) -> str:
        """The left side as formulaic writes it."""
        return str(next(iter(self.terms.left)))

    @property
    def text(self) -> str:
        """The formula."""
        return self.formula

    @property
    def intercept(self) -> bool:
        """Whether there is an intercept."""
        return self.terms.has_intercept

    @property
    def texts(self) -> list[str]:
        """Columns of the table that hold text."""
        return self.text_columns

    @property
    def unlearned(self) -> dict[str, tuple[ast.Call | None, Factor]]:
        """What is still to be learned, by its text: the state of a call, or the levels of a factor."""
        found: dict[str, tuple[ast.Call | None, Factor]] = {}
        for factor in self.terms.factors:
            calls = learning_calls(factor.tree).items()
            found |= {text: (call, factor) for text, call in calls if text not in self.states}
        return found | {factor.text: (None, factor) for factor in self._coded if factor.text not in self.levels}

    @property
    def is_learned(self) -> bool:
        """Whether nothing but means is still to be learned from the training rows."""
        return not self.unlearned

    @property
    def names(self) -> list[str]:
        """Names of the columns of X, as formulaic writes them."""
        return self._encoder.names

    def target_columns(self, target: str) -> list[str]:
        """Columns of the table that the target is made of; of a column besides that column alone."""
        if target != self.target:
            return [target]
        return [name for factor in self.terms.left_factors for name in factor.columns]

    def design(self, source: Source, piece: Piece, others: Sequence[str] = ()) -> NDArray[np.floating]:
        """Return the columns of X, then the other columns, as `Columns.design` does, in float64."""
        labels = [*self.names, *others]
        result = np.full((len(labels), piece.batch.num_rows), np.nan)
        frame, kept = self._frame(source, piece, self.reads(others))
        if not kept.any():
            return result
        if self.unknown == "error":
            self._require_known(source, piece, frame, kept)
        width = len(self.names)
        result[:width, kept] = self._encoder.features(frame).T
        for row, name in enumerate(others, start=width):
            result[row, kept] = self._encoder.target(frame) if name == self.target else frame[name]
        if not (usable := np.isfinite(result) | ~kept).all():
            column, row = (int(places[0]) for places in np.nonzero(~usable))
            raise fault(source, piece, labels[column], row, f"is {result[column, row]}, not a finite number")
        return result

    def learn(self, source: Source, training: Callable[[], Iterator[tuple[Piece, NDArray[np.bool_]]]]) -> None:
        """Learn levels, means, knots and the like from the training rows, in as many passes as it takes.

        Raises:
            InputError: a value cannot be used, or there is nothing to learn from.
        """

        def frames() -> "Iterator[pd.DataFrame]":
            for piece, used in training():
                frame, kept = self._frame(source, piece, self.reads([self.target]))
                yield frame[used[kept]]

        learn(self, frames)

    def _frame(self, source: Source, piece: Piece, names: Sequence[str]) -> "tuple[pd.DataFrame, NDArray[np.bool_]]":
        """Return columns of a piece as formulaic takes them, without rows that lack one, and which rows are left."""
        import pandas as pd

        columns: dict[str, Any] = {}
        kept = np.ones(piece.batch.num_rows, dtype=bool)
        for name in names:
            if name in self.text_columns:
                texts, absent = self._texts(source, piece, name)
                columns[name] = texts.dictionary_encode().to_pandas()
            else:
                mean = self.means.get(name) if name in self.features else None
                values = self._numbers(source, piece, name, mean)
                absent = np.isnan(values)
                columns[name] = values.astype(bool if source.kind(name) == "bool" else np.float64, copy=False)
            kept &= ~absent
        return pd.DataFrame(columns, index=range(len(kept)))[kept].reset_index(drop=True), kept

    @property
    def _coded(self) -> list[Factor]:
        """Factors whose values are levels."""
        return [factor for factor in self.terms.factors if factor.is_coded or factor.text in self.text_columns]

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self)

    def _require_known(self, source: Source, piece: Piece, frame: "pd.DataFrame", kept: NDArray[np.bool_]) -> None:
        """Refuse the first value that is not among the levels."""
        import pandas as pd

        for factor in self._coded:
            if all(name in frame for name in factor.columns):  # the target is not, of rows to predict
                values = pd.Series(evaluate(self, factor.tree, factor, frame))
                strange = ~values.isin(self.levels[factor.text])
                if strange.any():
                    place = int(strange.argmax())
                    row = int(np.flatnonzero(kept)[place])
                    self._refuse_unknown(source, piece, factor.text, row, values.iloc[place])


def saved_columns(state: Mapping[str, Any]) -> Columns:
    """Return columns as a checkpoint keeps them."""
    return Formula(**state) if "formula" in state else Columns(**state)
