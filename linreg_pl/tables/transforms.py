"""What the functions of a formula learn from the training rows, a piece of the table at a time.

Each learner ends with the state that formulaic's function of this name would have kept of the whole column.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linreg_pl.errors import InputError
from linreg_pl.tables.columns import MAX_COLUMNS
from linreg_pl.tables.encoding import evaluate
from linreg_pl.tables.expressions import Factor, arguments, learning_calls, refuse

if TYPE_CHECKING:
    import pandas as pd

    from linreg_pl.tables.formula import Formula

MAX_DISTINCT = 2**22  # values of a column
ARRAYS = (np.ndarray, np.generic)


class Learner(ABC):
    """Learns the state of a function, such as ``poly(area, 2)``, from its column, in as many passes as it needs."""

    def __init__(self, formula: str, call: ast.Call) -> None:
        self.formula, self.text, self.function = formula, ast.unparse(call), ast.unparse(call.func)
        self.column, self.arguments = arguments(formula, call)

    def see(self, values: Any) -> None:
        """Take some values of the column, which must be finite numbers."""
        try:
            numbers = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise self.refusal("needs numbers") from None
        if not np.isfinite(numbers).all():
            raise self.refusal("some values of the training rows are not finite numbers")
        self.add(numbers)

    @abstractmethod
    def add(self, values: NDArray[np.float64]) -> None:
        """Take numbers, shape ``(n,)``, or ``(n, k)`` for several columns."""

    @abstractmethod
    def end_pass(self) -> dict[str, Any] | None:
        """Return the state, or None if another pass over the rows is needed."""

    def refusal(self, what: str) -> InputError:
        """Return the error for the call."""
        return refuse(self.formula, f"{self.text}: {what}")


class Moments(Learner):
    """Mean and standard deviation, for ``center``, ``scale`` and ``standardize``, by Chan's update (1979)."""

    count = 0
    mean: Any = 0.0
    squares: Any = 0.0  # sum of the squared deviations from the mean

    def add(self, values: NDArray[np.float64]) -> None:
        """Merge the moments of some values."""
        if count := len(values):
            mean = values.mean(axis=0)
            between = self.count * count / (self.count + count)
            self.squares = self.squares + ((values - mean) ** 2).sum(axis=0) + (mean - self.mean) ** 2 * between
            self.count += count
            self.mean = self.mean + (mean - self.mean) * (count / self.count)

    def end_pass(self) -> dict[str, Any]:
        """Return centre, scale and the degrees of freedom given up."""
        center, ddof = self.arguments.get("center", True), self.arguments.get("ddof", 1)
        scale = self.arguments.get("rescale", self.arguments.get("scale", False))
        where = self.mean if center is True else None if center is False else np.asarray(center, float)
        if scale is True:
            squares = self.squares + self.count * (self.mean - (0.0 if where is None else where)) ** 2
            scale = np.sqrt(squares / (self.count - ddof)) if self.count > ddof else np.nan
            if not np.all(np.asarray(scale) > 0):
                raise self.refusal("has one value only in the training rows")
        return {"ddof": ddof, "center": where, "scale": None if scale is False else np.asarray(scale, float)}


class Polynomial(Learner):
    """Recurrence of the polynomials that are orthogonal on the rows, for ``poly``: one more of them in each pass."""

    def __init__(self, formula: str, call: ast.Call) -> None:
        super().__init__(formula, call)
        self.alpha: dict[int, float] = {}
        self.norms: dict[int, float] = {}
        self.sums = np.zeros(2)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add up the squares of the newest polynomial, and their products with the column."""
        if not self.arguments["raw"]:
            last, newest = np.zeros_like(values), np.ones_like(values)
            with np.errstate(over="ignore", invalid="ignore"):  # where there are too few values
                for k in range(len(self.alpha)):
                    beta = self.norms[k] / self.norms[k - 1] if k else 0.0
                    last, newest = newest, (values - self.alpha[k]) * newest - beta * last
                self.sums += (newest**2).sum(), (values * newest**2).sum()

    def end_pass(self) -> dict[str, Any] | None:
        """Keep the norm and the centre of the newest polynomial; end after that of the highest degree."""
        if self.arguments["raw"]:
            return {}
        k, (norm, product) = len(self.alpha), self.sums.tolist()
        least = 1e-24 * self.norms[k - 1] * (self.norms.get(1, norm) / self.norms[0]) if k else 0.0  # all is rounding
        if not least < norm < np.inf:
            raise self.refusal("the training rows have too few distinct values")
        self.norms[k], self.sums = norm, np.zeros(2)
        if k == self.arguments["degree"]:
            return {"alpha": self.alpha, "norms2": self.norms}
        self.alpha[k] = product / norm
        return None


class Spline(Learner):
    """Bounds and knots, for ``bs``, ``cr``, ``cs`` and ``cc``: quantiles, of the distinct values and their numbers."""

    def __init__(self, formula: str, call: ast.Call) -> None:
        super().__init__(formula, call)
        self.distinct, self.counts = np.empty(0), np.empty(0, np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Count the distinct values, of which there must not be too many."""
        found, counts = np.unique(values, return_counts=True)
        self.distinct, place = np.unique(np.concatenate([self.distinct, found]), return_inverse=True)
        self.counts = np.bincount(place, np.concatenate([self.counts, counts])).astype(np.int64)
        if len(self.distinct) > MAX_DISTINCT:
            what = f"has over {MAX_DISTINCT:,} distinct values, whose quantiles are not learned; give knots"
            raise self.refusal(f"{what}, lower_bound and upper_bound, or round the column")

    def end_pass(self) -> dict[str, Any]:
        """Let formulaic find bounds and knots from the distinct values; quantiles and means need their numbers."""
        from formulaic.transforms import TRANSFORMS

        function: Any = TRANSFORMS[self.function]
        given, state = dict(self.arguments), dict[str, Any]()
        if self.function == "bs" and given["df"]:
            number = given["df"] - given["degree"] - bool(given["include_intercept"])
            if number >= 0:
                given |= {"df": None, "knots": self.quantiles(np.linspace(0, 1, number + 2)[1:-1])}
        try:
            function(self.distinct, **given, _state=state)
            if isinstance(given.get("constraints"), str):
                free = state | {"constraints": None}
                columns = np.column_stack(list(function(self.distinct, **given, _state=free).values()))
                state["constraints"] = np.average(columns, axis=0, weights=self.counts)[None]
        except (TypeError, ValueError) as error:
            raise self.refusal(str(error)) from error
        return state

    def quantiles(self, shares: NDArray[np.float64]) -> list[float]:
        """Return quantiles as `numpy.quantile` does, of the values within the bounds if others do not count."""
        values, counts = self.distinct, self.counts
        if self.arguments["extrapolation"] in ("clip", "na", "zero"):
            low, high = (self.arguments[f"{side}_bound"] for side in ("lower", "upper"))
            within = (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
            values, counts = values[within], counts[within]
        ends = np.cumsum(counts)
        if not len(ends):
            raise InputError(f"{self.text}: no value lies within the bounds")
        ranks = np.column_stack([ends - counts, ends - 1]).ravel()  # the first and the last of each value
        quantiles: list[float] = np.interp(shares * (ends[-1] - 1), ranks, values.repeat(2)).tolist()
        return quantiles


class Levels:
    """The distinct values of a factor, learned in one pass."""

    def __init__(self, formula: str, factor: Factor) -> None:
        self.formula, self.text, self.column = formula, factor.text, factor.tree
        self.levels: dict[Any, None] = {}

    def see(self, values: Any) -> None:
        """Take some values, of any type."""
        import pandas as pd

        self.levels |= dict.fromkeys(pd.Series(values).unique().tolist())
        if len(self.levels) > MAX_COLUMNS:
            raise refuse(self.formula, f"{self.text}: has over {MAX_COLUMNS:,} levels, each a column of its own")

    def end_pass(self) -> list[Any]:
        """Return the levels in order; whole numbers as such, whatever the type of their column."""
        if len(self.levels) < 2:
            raise refuse(self.formula, f"{self.text}: has one value only in the training rows; leave it out")
        return sorted(int(level) if isinstance(level, float) and level.is_integer() else level for level in self.levels)


LEARNERS: dict[str, type[Learner]] = {
    **dict.fromkeys(("center", "scale", "standardize"), Moments),
    **dict.fromkeys(("bs", "cc", "cr", "cs"), Spline),
    "poly": Polynomial,
}


def learn(formula: "Formula", frames: "Callable[[], Iterator[pd.DataFrame]]") -> None:
    """Let a formula learn levels and states: in each pass over frames those of expressions in which all is known.

    Raises:
        InputError: a value cannot be used, or there is nothing to learn from.
    """
    learners: dict[str, tuple[Learner | Levels, Factor]] = {}
    while unlearned := formula.unlearned:
        for text, (call, factor) in unlearned.items():
            if text not in learners:
                learner: Learner | Levels = (
                    LEARNERS[ast.unparse(call.func)](formula.formula, call)
                    if call is not None
                    else Levels(formula.formula, factor)
                )
                if not learning_calls(learner.column).keys() & unlearned.keys():
                    learners[text] = learner, factor
        for frame in frames():
            for learner, factor in learners.values():
                learner.see(evaluate(formula, learner.column, factor, frame))
        for text, (learner, _) in learners.items():
            if isinstance(learner, Levels):
                formula.levels[text] = learner.end_pass()
            elif (state := learner.end_pass()) is not None:
                plain = {key: value.tolist() for key, value in state.items() if isinstance(value, ARRAYS)}
                formula.states[text] = state | plain
        learned = formula.states.keys() | formula.levels.keys()
        learners = {text: found for text, found in learners.items() if text not in learned}
