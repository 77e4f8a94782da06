"""Many runs side by side: a table and a picture."""

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from linreg_pl.figures import captioned, encode, make_panels, style
from linreg_pl.report import table

Row = dict[str, Any]  # a run: what it was made with, by flag, and what came of it, by log key
SEEDS = ("seed", "seed_everything", "data.seed")  # runs that differ in these alone are repetitions
THEORY = "theory"
STYLES = (("o", "-"), ("s", "--"), ("v", "-."))  # of the results drawn


class Comparison:
    """What is drawn against what.

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
        lines = [[*map(short, self.flags), "runs", *columns]]
        for key, rows in _grouped(self.rows, self.flags).items():
            lines.append([*map(shown, key), str(len(rows)), *(_spread(_numbers(rows, column)) for column in columns)])
        return table(lines)

    @style()
    def picture(self, title: str, caption: str) -> bytes:
        """Results against x as a PNG file: a point for each run, a line for each combination of the other flags."""
        figure, [axes] = make_panels(1, width=8, height=4.6)
        names = list(dict.fromkeys(row[self.x] for row in self.rows))
        place = {name: name for name in names} if all(map(_is_number, names)) else {n: i for i, n in enumerate(names)}
        others = [flag for flag in self.flags if flag not in (self.x, *SEEDS)]
        groups = _grouped(self.rows, others)
        for number, (key, rows) in enumerate(groups.items()):
            group = ", ".join(f"{short(flag)} {shown(value)}" for flag, value in zip(others, key, strict=True))
            for index, (result, (marker, line)) in enumerate(zip(self.y, STYLES, strict=False)):
                color = f"C{number if len(groups) > 1 else index}"
                points = [(place[row[self.x]], row[result]) for row in rows if _is_number(row.get(result))]
                means = _means(points) if self.x in self.flags else []
                label = ", ".join(filter(None, [group, result if len(self.y) > 1 or not group else ""]))
                look = {"alpha": 0.4} if means else {"label": label}
                axes.plot(*_columns(points), marker, color=color, markersize=4, **look)
                axes.plot(*_columns(means), line, color=color, label=label if means else "")
            theory = _means((place[row[self.x]], row[THEORY]) for row in rows if _is_number(row.get(THEORY)))
            axes.plot(*_columns(theory), ":", color="0.2", linewidth=2)
        if _numbers(self.rows, THEORY):
            axes.plot([], [], ":", color="0.2", linewidth=2, label=THEORY)
        if all(isinstance(name, int) for name in names):
            axes.locator_params(axis="x", integer=True)
        _scale(axes, "x", place.values())
        _scale(axes, "y", (value for result in self.y for value in _numbers(self.rows, result)))
        if list(place) != list(place.values()):
            axes.set_xticks(list(place.values()), [shown(name) for name in place])
        axes.set_xlabel(short(self.x))
        axes.set_ylabel(", ".join(self.y))
        axes.set_title(textwrap.fill(title, 64))
        if len(axes.get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside right upper")
        return encode(captioned(figure, caption))[0]


class Column:
    """A column of the table, for sentences about it.

    Args:
        rows: the runs.
        name: of the column.
    """

    def __init__(self, rows: Sequence[Row], name: str) -> None:
        self.rows = rows
        self.name = name

    def __getitem__(self, wanted: str) -> float:
        """Mean over the runs that ``wanted`` describes, e.g. ``lr=0.1 max_epochs=4``."""
        described = {tuple(pair.split("=")) for pair in wanted.split()}
        rows = [row for row in self.rows if described <= {(short(flag), shown(value)) for flag, value in row.items()}]
        return fmean(row[self.name] for row in rows)


def short(flag: str) -> str:
    """A flag's name as it is said: ``data.num_train`` is ``num_train``, ``model`` is ``model``."""
    return flag.rsplit(".", 1)[-1]


def shown(value: Any) -> str:
    """A value in a few characters."""
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


def _spread(numbers: list[float]) -> str:
    if not numbers:
        return ""
    mean = fmean(numbers)
    if max(numbers) - min(numbers) <= 1e-9 * abs(mean):
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {stdev(numbers):.2g}"


def _means(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean of y for each x, by rising x."""
    groups = defaultdict(list)
    for x, y in points:
        groups[x].append(y)
    return [(x, fmean(groups[x])) for x in sorted(groups)]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _scale(axes: Any, axis: str, values: Iterable[float]) -> None:
    """Make an axis logarithmic where the values are of different orders of magnitude."""
    values = list(values)
    if min(values, default=0) > 0 and max(values) / min(values) >= 20:
        axes.set(**{f"{axis}scale": "log"})
        getattr(axes, f"{axis}axis").set(major_formatter="{x:g}", minor_formatter="")
