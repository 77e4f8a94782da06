"""Rows encoded by formulaic, from what was learned of all training rows and from nothing else."""

import ast
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linreg_pl.tables.columns import MAX_COLUMNS
from linreg_pl.tables.expressions import ELEMENTWISE, Factor, learning_calls, refuse

if TYPE_CHECKING:
    import pandas as pd

    from linreg_pl.tables.formula import Formula

_ONE_AT_A_TIME = RLock()


class Encoder:
    """Encodes rows as the columns of X, or as the target, by a formula that has learned all that it needs.

    Raises:
        InputError: the formula makes too many columns, none, or not one of the target.
    """

    def __init__(self, formula: "Formula") -> None:
        import pandas as pd
        from formulaic import ModelSpec
        from formulaic.parser.types import Factor as Parsed

        self.formula, terms = formula, formula.terms
        widths = {factor: len(levels) for factor, levels in formula.levels.items()}
        for factor in terms.factors:
            states = (formula.states[call].values() for call in learning_calls(factor.tree))
            sizes = ([len(value) for value in values if isinstance(value, list | dict)] for values in states)
            widths.setdefault(factor.text, math.prod(max(found, default=1) for found in sizes))
        count = sum(math.prod(widths.get(factor.expr, 1) for factor in term.factors) for term in terms.right)
        if count > 2 * MAX_COLUMNS:  # an estimate, as counting them makes them
            raise refuse(formula.formula, f"makes about {count:,} columns; at most {MAX_COLUMNS:,} are taken")
        columns = [name for factor in terms.factors for name in factor.columns]
        text, number = pd.Categorical([None], [""]), np.array([np.nan])
        nothing = pd.DataFrame({name: text if name in formula.text_columns else number for name in columns})
        coded = {name: (Parsed.Kind.CATEGORICAL, {"categories": levels}) for name, levels in formula.levels.items()}
        fixed = {"materializer": "pandas", "output": "numpy", "na_action": "ignore"}
        self.specs = []
        for side in (terms.left, terms.right):
            learned = {"transform_state": _with_arrays(formula.states), "encoder_state": dict(coded)}
            with _unknown_levels_pass():
                matrix = self._encoded(ModelSpec(formula=side, **learned, **fixed), nothing)
            self.specs.append(matrix.model_spec)  # now it knows its columns
        if len(self.specs[0].column_names) != 1:
            raise refuse(formula.formula, f"the target {formula.target} must be one column of numbers")
        self.names = [name for name in self.specs[1].column_names if name != "Intercept"]
        if not 1 <= len(self.names) <= MAX_COLUMNS:
            raise refuse(formula.formula, f"makes {len(self.names):,} columns; at most {MAX_COLUMNS:,} are taken")

    def features(self, frame: "pd.DataFrame") -> NDArray[np.float64]:
        """Return the columns of X of some rows, shape ``(n, P)``."""
        return np.asarray(self._encoded(self.specs[1], frame), dtype=np.float64)[:, -len(self.names) :]

    def target(self, frame: "pd.DataFrame") -> NDArray[np.float64]:
        """Return the target of some rows, shape ``(n,)``."""
        return np.asarray(self._encoded(self.specs[0], frame), dtype=np.float64)[:, 0]

    def _encoded(self, spec: Any, frame: "pd.DataFrame") -> Any:
        """Let formulaic encode some rows, and see to it that it learns nothing from them."""
        quiet = nullcontext() if self.formula.unknown == "error" else _unknown_levels_pass()
        with np.errstate(all="ignore"), quiet:
            try:
                matrix = spec.get_model_matrix(frame, context=ELEMENTWISE)
            except Exception as error:  # formulaic wraps what any function raises
                raise refuse(self.formula.formula, " ".join(str(error).split())[:300]) from error
        for text, state in matrix.model_spec.transform_state.items():
            if state and text not in self.formula.states:
                what = f"{text}: cannot be learned from all rows; write it in another way"
                raise refuse(self.formula.formula, what)
        return matrix


@contextmanager
def _unknown_levels_pass() -> Iterator[None]:
    """Let formulaic not warn of unknown levels: they were looked at. Filters of warnings belong to all threads."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def evaluate(
    formula: "Formula", tree: ast.expr | None, factor: Factor, frame: "pd.DataFrame"
) -> "NDArray[Any] | pd.Series":
    """Return the values of an expression within a factor; of the factor's column if there is none.

    Raises:
        InputError: a function cannot take its arguments.
    """
    from formulaic.transforms import TRANSFORMS
    from formulaic.utils.layered_mapping import LayeredMapping
    from formulaic.utils.stateful_transforms import stateful_eval

    if tree is None:
        return frame[factor.text]
    columns = {word: frame[name] for word, name in factor.aliases.items()}
    scope = LayeredMapping(LayeredMapping(frame, name="data"), columns, ELEMENTWISE, TRANSFORMS)
    with np.errstate(all="ignore"):
        try:
            value = stateful_eval(ast.unparse(tree), scope, {}, _with_arrays(formula.states), None)
        except Exception as error:  # whatever a function raises
            what = f"{ast.unparse(tree)[:60]}: {' '.join(str(error).split())[:300]}"
            raise refuse(formula.formula, what) from error
    return getattr(value, "__wrapped__", value)


def _with_arrays(states: Mapping[str, Any]) -> dict[str, Any]:
    """Return states with arrays in the place of lists, as formulaic keeps them."""
    return {
        text: {key: np.array(value) if isinstance(value, list) else value for key, value in state.items()}
        for text, state in states.items()
    }
