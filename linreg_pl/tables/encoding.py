"""Rows encoded by formulaic, from what was learned of all training rows and from nothing else."""

import ast
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linreg_pl.tables.columns import MAX_COLUMNS, Unknown
from linreg_pl.tables.expressions import ELEMENTWISE, Factor, Terms, learning_calls, refuse

if TYPE_CHECKING:
    import pandas as pd

_ONE_AT_A_TIME = Lock()


class Encoder:
    """Encodes rows as the columns of X, or as the target.

    Args:
        formula: its text.
        terms: the formula as it was read.
        states: what functions such as ``poly`` learned, by their text.
        levels: of the factors that have some, by their text.
        texts: columns of the table that hold text.
        unknown: what is done about other levels.

    Raises:
        InputError: the formula makes too many columns, none, or not one of the target.
    """

    def __init__(
        self,
        formula: str,
        terms: Terms,
        states: Mapping[str, Any],
        levels: Mapping[str, Sequence[Any]],
        texts: Sequence[str],
        unknown: Unknown,
    ) -> None:
        import pandas as pd
        from formulaic import ModelSpec
        from formulaic.parser.types import Factor as Parsed

        self.formula, self.states = formula, states
        self.quiet: Callable[[], AbstractContextManager[None]] = _unknown_levels_pass
        widths = {text: len(found) for text, found in levels.items()}
        for factor in terms.factors:
            sizes = (
                [len(x) for x in states[text].values() if isinstance(x, list | dict)]
                for text in learning_calls(factor.tree)
            )
            widths.setdefault(factor.text, math.prod(max(found, default=1) for found in sizes))
        count = sum(math.prod(widths.get(factor.expr, 1) for factor in term.factors) for term in terms.right)
        if count > 2 * MAX_COLUMNS:  # an estimate, as counting them makes them
            raise refuse(formula, f"makes about {count:,} columns; at most {MAX_COLUMNS:,} are taken")
        columns = dict.fromkeys(name for factor in terms.factors for name in factor.columns)
        nothing = {name: pd.Categorical([None], [""]) if name in texts else np.array([np.nan]) for name in columns}
        coded = {text: (Parsed.Kind.CATEGORICAL, {"categories": list(found)}) for text, found in levels.items()}
        fixed = {"materializer": "pandas", "output": "numpy", "na_action": "ignore"}
        self.specs = []
        for side in (terms.left, terms.right):
            spec = ModelSpec(formula=side, transform_state=with_arrays(states), encoder_state=dict(coded), **fixed)
            self.specs.append(self._encoded(spec, pd.DataFrame(nothing)).model_spec)  # now it knows its columns
        if len(self.specs[0].column_names) != 1:
            raise refuse(formula, f"the target {next(iter(terms.left))} must be one column of numbers")
        self.names = [name for name in self.specs[1].column_names if name != "Intercept"]
        if not 1 <= len(self.names) <= MAX_COLUMNS:
            raise refuse(formula, f"makes {len(self.names):,} columns; at most {MAX_COLUMNS:,} are taken")
        if unknown == "error":
            self.quiet = nullcontext

    def features(self, frame: "pd.DataFrame") -> NDArray[np.float64]:
        """Return the columns of X of some rows, shape ``(n, P)``."""
        return np.asarray(self._encoded(self.specs[1], frame), dtype=np.float64)[:, -len(self.names) :]

    def target(self, frame: "pd.DataFrame") -> NDArray[np.float64]:
        """Return the target of some rows, shape ``(n,)``."""
        return np.asarray(self._encoded(self.specs[0], frame), dtype=np.float64)[:, 0]

    def _encoded(self, spec: Any, frame: "pd.DataFrame") -> Any:
        """Let formulaic encode some rows, and see to it that it learns nothing from them.

        Raises:
            InputError: it cannot.
        """
        with np.errstate(all="ignore"), self.quiet():
            try:
                matrix = spec.get_model_matrix(frame, context=ELEMENTWISE)
            except Exception as error:  # formulaic wraps what any function raises
                raise refuse(self.formula, " ".join(str(error).split())[:300]) from error
        for text, state in matrix.model_spec.transform_state.items():
            if state and text not in self.states:
                raise refuse(self.formula, f"{text}: cannot be learned from all rows; write it in another way")
        return matrix


@contextmanager
def _unknown_levels_pass() -> Iterator[None]:
    """Let formulaic not warn of unknown levels: they were looked at. Filters of warnings belong to all threads."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def evaluate(
    formula: str, states: Mapping[str, Any], tree: ast.expr | None, factor: Factor, frame: "pd.DataFrame"
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
            value = stateful_eval(ast.unparse(tree), scope, {}, with_arrays(states), None)
        except Exception as error:  # whatever a function raises
            raise refuse(formula, f"{ast.unparse(tree)[:60]}: {' '.join(str(error).split())[:300]}") from error
    return getattr(value, "__wrapped__", value)


def with_arrays(states: Mapping[str, Any]) -> dict[str, Any]:
    """Return states with arrays in the place of lists, as formulaic keeps them."""
    return {
        text: {key: np.array(value) if isinstance(value, list) else value for key, value in state.items()}
        for text, state in states.items()
    }
