"""Formulas such as ``log(price) ~ rooms + C(city) * age``, for tables of any size.

formulaic reads and encodes them, but takes levels, means, knots and the like from the first rows that it sees. Here,
passes over the training rows learn them first; then every piece of the table is encoded alike.
"""

import ast
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linreg_pl.tables.columns import Columns, as_text, fault, is_missing, is_text
from linreg_pl.tables.expressions import ELEMENTWISE, Factor, Terms, learning_calls, read_formula, refuse
from linreg_pl.tables.sources import Piece, Source
from linreg_pl.tables.transforms import LEARNERS, Learner

if TYPE_CHECKING:
    import pandas as pd

MAX_COLUMNS = 10_000  # of X


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
        """Read a formula for a table.

        Args:
            formula: its text.
            source: the table.
            available: the columns that ``.`` stands for.
            options: ``missing``, ``unknown`` and ``time_unit``.

        Raises:
            InputError: the formula cannot be used.
        """
        terms = read_formula(formula, tuple(available))
        features = list(dict.fromkeys(name for factor in terms.right_factors for name in factor.columns))
        result = cls(features, formula=formula, available=list(available), **options)
        names = [name for name in source.schema.names if name in result.reads([result.target])]
        result.text_columns = [name for name in names if is_text(source.kind(name))]
        result.levels = {factor.text: factor.levels for factor in result.factors if factor.levels}
        return result

    @cached_property
    def terms(self) -> Terms:
        """The formula as it was read."""
        return read_formula(self.formula, tuple(self.available))

    @property
    def factors(self) -> list[Factor]:
        """The factors of both sides."""
        return self.terms.factors

    @property
    def target(self) -> str:
        """The left side as formulaic writes it."""
        return str(next(iter(self.terms.left)))

    @property
    def intercept(self) -> bool:
        """Whether there is an intercept."""
        return self.terms.has_intercept

    def target_columns(self, target: str) -> list[str]:
        """Columns of the table that the target is made of."""
        return [name for factor in self.terms.left_factors for name in factor.columns]

    @property
    def texts(self) -> list[str]:
        """Columns of the table that hold text."""
        return self.text_columns

    @property
    def without_levels(self) -> list[str]:
        """None: levels are those of factors, not of columns."""
        return []

    @property
    def is_learned(self) -> bool:
        """Whether nothing but means is still to be learned from the training rows."""
        calls = {text for factor in self.factors for text in learning_calls(factor.tree)}
        return calls <= self.states.keys() and {factor.text for factor in self._coded} <= self.levels.keys()

    @property
    def names(self) -> list[str]:
        """Names of the columns of X, as formulaic writes them."""
        return [name for name in self._specs[1].column_names if name != "Intercept"]

    def reads(self, others: Sequence[str]) -> list[str]:
        """Columns of the table that are needed for X and for others, of which one may be the target."""
        needed = (self.target_columns(name) if name == self.target else [name] for name in others)
        return list(dict.fromkeys([*self.features, *chain.from_iterable(needed)]))

    def design(self, source: Source, piece: Piece, others: Sequence[str] = ()) -> NDArray[np.floating]:
        """Return the columns of X, then the other columns, as `Columns.design` does, in float64."""
        labels = [*self.names, *others]
        result = np.full((len(labels), piece.batch.num_rows), np.nan)
        frame, kept = self._frame(source, piece, self.reads(others))
        if not kept.any():
            return result
        left, right = self._specs
        if self.unknown == "error":
            self._require_known(source, piece, frame, kept)
        width = len(labels) - len(others)
        result[:width, kept] = self._encoded(right, frame)[:, -width:].T
        for row, name in enumerate(others, start=width):
            result[row, kept] = self._encoded(left, frame)[:, 0] if name == self.target else frame[name]
        if not (usable := np.isfinite(result) | ~kept).all():
            column, row = (int(places[0]) for places in np.nonzero(~usable))
            raise fault(source, piece, labels[column], row, f"is {result[column, row]}, not a finite number")
        return result

    def learn(self, source: Source, training: Callable[[], Iterator[tuple[Piece, NDArray[np.bool_]]]]) -> None:
        """Learn levels, means, knots and the like from the training rows.

        Args:
            source: the table.
            training: yields its pieces, with which of their rows are used; it is called for each pass.

        Raises:
            InputError: a value cannot be used, or there is nothing to learn from.
        """
        learners: dict[str, tuple[Learner, Factor]] = {}
        while not self.is_learned:
            calls = {
                text: (call, factor) for factor in self.factors for text, call in learning_calls(factor.tree).items()
            }
            missing = calls.keys() - self.states.keys()
            for text in missing - learners.keys():
                call, factor = calls[text]
                learner = LEARNERS[ast.unparse(call.func)](self.formula, call)
                if not learning_calls(learner.column).keys() & missing:
                    learners[text] = learner, factor
            found: dict[str, Any] = {
                factor.text: [] for factor in self._coded if not learning_calls(factor.tree).keys() & missing
            }
            for piece, used in training():
                frame, kept = self._frame(source, piece, self.reads([self.target]))
                frame = frame[used[kept]]
                for learner, factor in learners.values():
                    values = self._evaluated(ast.unparse(learner.column), frame, factor.aliases)
                    learner.see(self._as_numbers(learner.text, values))
                for factor in self._coded:
                    if factor.text in found and factor.text not in self.levels:
                        found[factor.text] = self._distinct(found[factor.text], self._values(factor, frame))
            self.levels = {text: _sorted_levels(values) for text, values in found.items()} | self.levels
            for text, (learner, _) in list(learners.items()):
                if (state := learner.end_pass()) is not None:
                    self.states[text] = state
                    del learners[text]
        for text, levels in self.levels.items():
            if len(levels) < 2:
                raise refuse(self.formula, f"{text}: has one value only in the training rows; leave it out")

    def _frame(self, source: Source, piece: Piece, names: Sequence[str]) -> "tuple[pd.DataFrame, NDArray[np.bool_]]":
        """Return columns of a piece as formulaic takes them, without rows that lack one, and which rows are left."""
        import pandas as pd
        import pyarrow as pa

        columns: dict[str, Any] = {}
        kept = np.ones(piece.batch.num_rows, dtype=bool)
        for name in names:
            if name in self.text_columns:
                absent = is_missing(piece.batch.column(name))
                if absent.any() and self.missing != "drop":
                    self._refuse_missing(source, piece, name, int(absent.argmax()))
                columns[name] = as_text(piece.batch.column(name))
            else:
                mean = self.means.get(name) if name in self.features else None
                columns[name] = self._numbers(source, piece, name, mean).astype(np.float64, copy=False)
                absent = np.isnan(columns[name])
            kept &= ~absent
        for name, values in columns.items():
            if name in self.text_columns:
                columns[name] = values.filter(pa.array(kept)).dictionary_encode().to_pandas()
            else:
                is_true = pa.types.is_boolean(source.kind(name))
                columns[name] = values[kept].astype(bool if is_true else np.float64, copy=False)
        return pd.DataFrame(columns, index=range(int(kept.sum()))), kept

    @property
    def _coded(self) -> list[Factor]:
        """Factors whose values are levels."""
        return [factor for factor in self.factors if factor.is_coded or factor.text in self.text_columns]

    @cached_property
    def _specs(self) -> list[Any]:
        """How formulaic is to encode each side; a row of nothing shows it the columns."""
        import pandas as pd
        from formulaic import ModelSpec
        from formulaic.parser.types import Factor as Parsed

        widths = {text: len(levels) for text, levels in self.levels.items()}
        for factor in self.factors:
            bases = [self.states[text] for text in learning_calls(factor.tree)]
            widths.setdefault(
                factor.text, math.prod(max(map(len, map(_listed, base.values())), default=1) for base in bases)
            )
        terms = [[widths.get(factor.expr, 1) for factor in term.factors] for term in self.terms.right]
        if (count := sum(math.prod(term) for term in terms)) > 2 * MAX_COLUMNS:
            raise refuse(self.formula, f"makes about {count:,} columns; at most {MAX_COLUMNS:,} are taken")
        nothing = {name: np.array([np.nan]) for name in self.reads([self.target])}
        frame = pd.DataFrame(nothing | {name: pd.Categorical([None], [""]) for name in self.text_columns})
        states = {text: {key: _array(value) for key, value in state.items()} for text, state in self.states.items()}
        levels = {text: (Parsed.Kind.CATEGORICAL, {"categories": found}) for text, found in self.levels.items()}
        fixed = {"materializer": "pandas", "output": "numpy", "na_action": "ignore"}
        specs = []
        for side in (self.terms.left, self.terms.right):
            spec = ModelSpec(formula=side, transform_state=dict(states), encoder_state=dict(levels), **fixed)
            specs.append(self._encoded(spec, frame).model_spec)
        if len(specs[0].column_names) != 1:
            raise refuse(self.formula, f"the target {self.target} must be one column of numbers")
        if not 1 <= len(specs[1].column_names) - self.terms.has_intercept <= MAX_COLUMNS:
            raise refuse(
                self.formula, f"makes {len(specs[1].column_names):,} columns; at most {MAX_COLUMNS:,} are taken"
            )
        return specs

    def _encoded(self, spec: Any, frame: "pd.DataFrame") -> Any:
        """Let formulaic encode some rows, and see to it that it learns nothing from them.

        Raises:
            InputError: it cannot.
        """
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of levels, which were looked at
            try:
                matrix = spec.get_model_matrix(frame, context=ELEMENTWISE)
            except Exception as error:  # formulaic wraps what any function raises
                raise refuse(self.formula, " ".join(str(error).split())[:300]) from error
        for text, state in matrix.model_spec.transform_state.items():
            if state and text not in self.states:
                raise refuse(self.formula, f"{text}: cannot be learned from all rows; write it in another way")
        return matrix

    def _evaluated(self, expression: str, frame: "pd.DataFrame", aliases: dict[str, str]) -> Any:
        """Return the values of an expression."""
        from formulaic.transforms import TRANSFORMS
        from formulaic.utils.layered_mapping import LayeredMapping
        from formulaic.utils.stateful_transforms import stateful_eval

        columns = {word: frame[name] for word, name in aliases.items()}
        scope = LayeredMapping(LayeredMapping(frame, name="data"), columns, ELEMENTWISE, TRANSFORMS)
        states = {text: {key: _array(value) for key, value in state.items()} for text, state in self.states.items()}
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return stateful_eval(expression, scope, {}, states, None)
            except Exception as error:  # whatever a function raises
                raise refuse(self.formula, f"{expression}: {' '.join(str(error).split())[:300]}") from error

    def _values(self, factor: Factor, frame: "pd.DataFrame") -> "pd.Series":
        """Return the values of a factor that has levels."""
        import pandas as pd

        value = (
            frame[factor.text]
            if factor.tree is None
            else self._evaluated(ast.unparse(factor.tree), frame, factor.aliases)
        )
        return pd.Series(getattr(value, "__wrapped__", value))

    def _as_numbers(self, text: str, values: Any) -> NDArray[np.float64]:
        try:
            result = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise refuse(self.formula, f"{text}: needs numbers") from None
        if not np.isfinite(result).all():
            raise refuse(self.formula, f"{text}: some values of the training rows are not finite numbers")
        return result

    def _distinct(self, seen: Sequence[Any], values: "pd.Series") -> list[Any]:
        """Return the distinct values so far."""
        found = list(dict.fromkeys([*seen, *values.unique()]))
        if len(found) > MAX_COLUMNS:
            raise refuse(self.formula, f"{values.name}: has over {MAX_COLUMNS:,} levels, each a column of its own")
        return found

    def _require_known(self, source: Source, piece: Piece, frame: "pd.DataFrame", kept: NDArray[np.bool_]) -> None:
        """Check that all values are among the levels.

        Raises:
            InputError: names the first that is not.
        """
        for factor in self._coded:
            if all(name in frame for name in factor.columns):  # the target is not, of rows to predict
                values = self._values(factor, frame)
                strange = ~values.isin(self.levels[factor.text])
                if strange.any():
                    place = int(strange.argmax())
                    row = int(np.flatnonzero(kept)[place])
                    self._refuse_unknown(source, piece, factor.text, row, values.iloc[place])


def saved_columns(state: Mapping[str, Any]) -> Columns:
    """Return columns as a checkpoint keeps them."""
    return Formula(**state) if "formula" in state else Columns(**state)


def _array(value: Any) -> Any:
    return np.array(value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | dict) else [value]


def _sorted_levels(values: Sequence[Any]) -> list[Any]:
    """Return levels in their order; whole numbers as such, whatever the type of their column."""
    plain = sorted(value.item() if isinstance(value, np.generic) else value for value in values)
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in plain]
