"""Many runs side by side: a table, a figure, and formulas and sentences about their results."""

import ast
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression, stdev
from typing import Any

import numpy as np

from linreg_pl.runs.drawing import add_caption, encode, make_panels, style
from linreg_pl.runs.report import table

Row = dict[str, Any]  # a run: its settings by flag, and its results by log key
SEEDS = ("seed", "seed_everything", "data.seed")  # runs that differ in these alone are repetitions
THEORY = "theory"
STYLES = (("o", "-"), ("s", "--"), ("v", "-."))  # of the results drawn
ARITHMETIC = (ast.Expression, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Constant, ast.Name, ast.Load)
FORMULA = (*ARITHMETIC, ast.Compare, ast.cmpop, ast.IfExp, ast.Call)


class Comparison:
    """Results of many runs against the flags in which they differ.

    Args:
        rows: one for each run.
        swept: flags in which the runs differ.
        x: a flag or a result; by default the first flag whose values are numbers.
        y: results; by default the mean squared errors.
    """

    def __init__(self, rows: Sequence[Row], swept: Sequence[str], x: str | None, y: Sequence[str]) -> None:
        self.rows = rows
        self.flags = [flag for flag in swept if flag not in SEEDS] or list(swept)
        numeric = [flag for flag in self.flags if all(_is_number(row.get(flag)) for row in rows)]
        self.x = x or (numeric or self.flags)[0]
        self.y = y or [key for key in ("train/mse", "val/mse") if _numbers(rows, key)]
        known = {key for row in rows for key in row}
        for key in {self.x, *self.y} - known:
            raise ValueError(f"{key!r} is none of {', '.join(sorted(known))}")

    def table(self) -> str:
        """A line for each combination of flags; repetitions as mean ± standard deviation."""
        columns = [*self.y, *([THEORY] if _numbers(self.rows, THEORY) else [])]
        lines = [[*map(short_name, self.flags), "runs", *columns]]
        for key, rows in _grouped(self.rows, self.flags).items():
            cells = (_mean_and_deviation(_numbers(rows, column)) for column in columns)
            lines.append([*map(format_value, key), str(len(rows)), *cells])
        return table(lines)

    def slope(self, smallest_x: float) -> dict[str, float]:
        """Slope of log y against log x, from some x on, and its standard error."""
        result = self.y[0]
        points = [(math.log(row[self.x]), math.log(row[result])) for row in self.rows if row[self.x] >= smallest_x]
        fit = linear_regression(*zip(*points, strict=True))
        residual = math.hypot(*(v - fit.intercept - fit.slope * u for u, v in points))
        spread = stdev(u for u, _ in points) * math.sqrt(len(points) - 1)
        return {"slope": fit.slope, "slope_error": residual / math.sqrt(len(points) - 2) / spread}

    @style()
    def picture(self, title: str, caption: str) -> bytes:
        """Draw results against x as a PNG file: a point for each run, a line for each combination of other flags."""
        figure, [axes] = make_panels(1, width=8, height=4.6)
        names = list(dict.fromkeys(row[self.x] for row in self.rows))
        place = {name: name for name in names} if all(map(_is_number, names)) else {n: i for i, n in enumerate(names)}
        others = [flag for flag in self.flags if flag not in (self.x, *SEEDS)]
        groups = _grouped(self.rows, others)
        for number, (key, rows) in enumerate(groups.items()):
            pairs = zip(others, key, strict=True)
            group = ", ".join(f"{short_name(flag)} {format_value(value)}" for flag, value in pairs)
            for index, (result, (marker, line)) in enumerate(zip(self.y, STYLES, strict=False)):
                color = f"C{number if len(groups) > 1 else index}"
                points = [(place[row[self.x]], row[result]) for row in rows if _is_number(row.get(result))]
                means = _means(points) if self.x in self.flags else []
                label = ", ".join(filter(None, [group, result if len(self.y) > 1 or not group else ""]))
                look = {"alpha": 0.4} if means else {"label": label}
                axes.plot(*np.reshape(points, (-1, 2)).T, marker, color=color, markersize=4, **look)
                axes.plot(*np.reshape(means, (-1, 2)).T, line, color=color, label=label if means else "")
            theory = _means((place[row[self.x]], row[THEORY]) for row in rows if _is_number(row.get(THEORY)))
            axes.plot(*np.reshape(theory, (-1, 2)).T, ":", color="0.2", linewidth=2)
        if _numbers(self.rows, THEORY):
            axes.plot([], [], ":", color="0.2", linewidth=2, label=THEORY)
        if all(isinstance(name, int) for name in names):
            axes.locator_params(axis="x", integer=True)
        _scale(axes, "x", place.values())
        _scale(axes, "y", (value for result in self.y for value in _numbers(self.rows, result)))
        if list(place) != list(place.values()):
            axes.set_xticks(list(place.values()), [format_value(name) for name in place])
        axes.set(xlabel=short_name(self.x), ylabel=", ".join(self.y), title=textwrap.fill(title, 64))
        if len(axes.get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside right upper")
        return encode(add_caption(figure, caption))[0]


@dataclass(frozen=True)
class Column:
    """A setting or result of the runs, averaged over those that are asked for; for the text of an answer."""

    rows: Sequence[Row]
    name: str

    def __getitem__(self, selection: str) -> float:
        """Mean over the runs with these values of flags, e.g. ``lr=0.1 max_epochs=4``."""
        pairs = {tuple(pair.split("=")) for pair in selection.split()}
        selected = (row for row in self.rows if pairs <= {(short_name(k), format_value(v)) for k, v in row.items()})
        return fmean(row[self.name] for row in selected)


def evaluate(formula: object, row: Row) -> Any:
    """Evaluate a formula of numbers, settings, results and functions of `math`; any other code in it is refused.

    Example:
        >>> evaluate("noise_std / sqrt(num_train) if error_bias > 0 else 0",
        ...          {"data.noise_std": 1, "data.num_train": 4, "error/bias": 0.1})
        0.5
    """
    tree = ast.parse(str(formula), mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, FORMULA):
            raise ValueError(f"{formula}: a formula may not contain {type(node).__name__}")
    names = {name: value for name, value in vars(math).items() if not name.startswith("_")}
    names |= {short_name(name).replace("/", "_"): value for name, value in row.items()}
    return eval(compile(tree, "formula", "eval"), {"__builtins__": {}}, names)


def short_name(flag: str) -> str:
    """The last part of a flag: ``num_train`` of ``data.num_train``."""
    return flag.rsplit(".", 1)[-1]


def format_value(value: Any) -> str:
    """Format a flag's value in a few characters."""
    return f"{value:g}" if isinstance(value, float) else str(value).rsplit(".", 1)[-1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(rows: Iterable[Row], key: str) -> list[float]:
    return [row[key] for row in rows if _is_number(row.get(key))]


def _grouped(rows: Iterable[Row], flags: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[flag] for flag in flags)].append(row)
    return groups


def _mean_and_deviation(numbers: list[float]) -> str:
    if not numbers:
        return ""
    mean = fmean(numbers)
    differ = max(numbers) - min(numbers) > 1e-9 * abs(mean)
    return f"{mean:.4g} ± {stdev(numbers):.2g}" if differ else f"{mean:.4g}"


def _means(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean of y for each x, by rising x."""
    groups = defaultdict(list)
    for x, y in points:
        groups[x].append(y)
    return [(x, fmean(groups[x])) for x in sorted(groups)]


def _scale(axes: Any, axis: str, values: Iterable[float]) -> None:
    """Make an axis logarithmic where the values are of different orders of magnitude."""
    values = list(values)
    if min(values, default=0) > 0 and max(values) / min(values) >= 20:
        axes.set(**{f"{axis}scale": "log"})
        getattr(axes, f"{axis}axis").set(major_formatter="{x:g}", minor_formatter="")
