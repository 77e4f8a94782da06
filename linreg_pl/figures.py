"""Pictures of a fit: arrays in, a matplotlib Figure out. White with dark text, so that they read on any background."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linreg_pl.console import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Curve = Sequence[tuple[int, float]]

# Okabe and Ito's colours, which the colour-blind can tell apart, and greys.
DATA, FIT, TRUTH, PALE, DARK, GREY = "#0072B2", "#D55E00", "#009E73", "#9CC7E4", "#222222", "#777777"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#BBBBBB",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.6,
    "text.color": DARK,
    "axes.labelcolor": DARK,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # `$` in a column's name is a dollar, and `_` no subscript
}
FONTS = (  # for names beyond the Latin, Greek and Cyrillic of matplotlib's own; whichever the machine has
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Devanagari",
)  # fmt: skip
DPI = 110
MAX_NAME = 22  # characters of a name that are shown
MAX_PANELS = 3
MAX_COEFFICIENTS = 30
CONTOURS = 13
SURFACE = [(1 - 0.62 * depth, 1 - 0.34 * depth, 1 - 0.2 * depth) for depth in np.linspace(1, 0, CONTOURS - 1)]  # blues
KEYS = ("estimate", "optimum", "standard_error", "ci_low", "ci_high", "true")
MARKS: dict[str, dict[str, Any]] = {
    "optimum": {"marker": "x", "color": DARK, "markersize": 7},
    "true": {"marker": "o", "color": TRUTH, "markersize": 9, "fillstyle": "none"},
    "estimate": {"marker": ".", "color": FIT, "markersize": 7},
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in this project's style, whatever the user's is; where no font has a character there is a box."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        matplotlib.rcdefaults()
        installed = {font.name for font in fontManager.ttflist}
        families = ["DejaVu Sans", *(name for name in FONTS if name in installed)]
        matplotlib.rcParams.update({**STYLE, "font.family": families})
        yield


@style()
def encode(figure: "Figure") -> tuple[bytes, int, int]:
    """A figure as PNG, with its width and height in pixels."""
    from PIL import Image

    figure.canvas.draw()  # once; `savefig` would draw twice
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png", compress_level=4)
    return content.getvalue(), pixels.shape[1], pixels.shape[0]


def short(name: str) -> str:
    """A column's name as a label: in one line, its middle left out where it is long."""
    name = printable(name)
    half = (MAX_NAME - 1) // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}…{name[-half:]}"


def in_unit(what: str, name: str, power: str = "") -> str:
    """A label with its unit: the target, or its square; in two lines where one would be too long."""
    unit = short(name) if name.isidentifier() or not power else f"({short(name)})"
    return f"{what}, in {unit}{power}" if len(unit) < 14 else f"{what},\nin {unit}{power}"


@style()
def draw_data(  # noqa: D417
    X: Array, y: Array, weight: Array, bias: float, names: Sequence[str], target: str, caption: str
) -> "Figure":
    """The target over the features, as in notebook 1, with the fit; at most three, those that move it most.

    Args:
        X: rows in their own units, shape ``(n, P)``.
        y: their targets, shape ``(n,)``.
        weight: shape ``(P,)``.
        bias: the intercept.
        names: of the columns of X.
        target: name of y.
    """
    moves = np.abs(weight) * X.std(axis=0)
    shown = sorted(np.argsort(-moves, kind="stable")[:MAX_PANELS])
    if len(shown) < X.shape[1]:
        caption += f"; {len(shown)} of {X.shape[1]} features, those that move the target most"
    figure, panels = make_panels(len(shown), sharey=True)
    middle = float((X @ weight + bias).mean())
    for axes, column in zip(panels, shown, strict=True):
        x = X[:, column]
        _dots(axes, x, y)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, middle + weight[column] * (ends - x.mean()), color=FIT, linewidth=1.6)
        axes.set_xlabel(short(names[column]))
    others = ", the other features at their mean" if X.shape[1] > 1 else ""
    panels[0].set(title="Data and fit", ylabel=short(target))
    return captioned(figure, f"Dots: {caption}. Line: the fit{others}.")


@style()
def draw_fit(fitted: Array, y: Array, weight: Array | None, target: str, caption: str) -> "Figure":
    """Fitted against true values, residuals against fitted values, and quantiles of the residuals.

    Args:
        fitted: predictions, shape ``(n,)``.
        y: targets, shape ``(n,)``.
        weight: weights of the rows, shape ``(n,)``, or None.
        target: name of y.
        caption: which rows they are.
    """
    residual, what = y - fitted, "residual"
    if weight is not None:
        fitted, y = fitted[weight > 0], y[weight > 0]
        residual, what = residual[weight > 0] * np.sqrt(weight[weight > 0]), "residual × √weight"
    name = short(target)
    figure, (true, against, quantiles) = make_panels(3)
    _dots(true, y, fitted)
    ends = [min(y.min(), fitted.min()), max(y.max(), fitted.max())]
    true.plot(ends, ends, color=DARK, linewidth=0.8, zorder=1)
    true.set(title="Fitted against true", xlabel=name, ylabel=f"fitted {name}")
    _dots(against, fitted, residual)
    against.axhline(0, color=DARK, linewidth=0.8, zorder=1)
    against.set(title="Residuals", xlabel=f"fitted {name}", ylabel=in_unit(what, target))
    expected, ordered = normal_quantiles(residual)
    _dots(quantiles, expected, ordered)
    normal = expected[[0, -1]]
    quantiles.plot(normal, residual.mean() + residual.std() * normal, color=DARK, linewidth=0.8, zorder=1)
    quantiles.set(title="Normal Q-Q", xlabel="normal quantile", ylabel=in_unit(what, target))
    lines = "Lines: a perfect fit; residual 0; normal residuals of the same mean and spread."
    return captioned(figure, f"Dots: {caption}. {lines}")


def normal_quantiles(values: Array) -> tuple[Array, Array]:
    """Medians of normal order statistics (Filliben 1975) and the values in order, both of shape ``(n,)``."""
    from scipy.special import ndtri

    n = len(values)
    share = (np.arange(1, n + 1) - 0.3175) / (n + 0.365)
    share[-1] = 0.5 ** (1 / n)
    share[0] = 1 - share[-1]
    return ndtri(share), np.sort(values)


@style()
def draw_loss(curves: Mapping[str, Curve], noise_floor: float | None, target: str, steps_per_epoch: int) -> "Figure":
    """Mean squared errors over the steps, on a logarithmic axis.

    Args:
        curves: points (step, value) of ``mini-batch``, ``training rows`` and ``validation rows``; values above zero.
        noise_floor: estimate of the noise variance.
        target: name of y.
        steps_per_epoch: mini-batches in an epoch.
    """
    figure, (axes,) = make_panels(1, width=7)
    looks: dict[str, dict[str, Any]] = {
        "mini-batch": {"color": PALE, "linewidth": 0.8, "marker": ".", "markersize": 3},
        "training rows": {"color": DATA, "linewidth": 1.6},
        "validation rows": {"color": FIT, "linewidth": 1.2, "marker": "o", "markersize": 4},
    }
    for name, look in looks.items():
        if points := curves.get(name):
            axes.plot(*zip(*points, strict=True), label=name, **(look if len(points) < 50 else look | {"marker": ""}))
    if noise_floor:
        axes.axhline(noise_floor, color=DARK, linewidth=1, linestyle=(0, (5, 3)), label="noise floor")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:.3g}" if high < 10 * low else lambda *_: "")  # else it may have no number
    axes.set(title="Loss", xlabel="SGD step", ylabel=in_unit("mean squared error", target, "²"))
    axes.locator_params("x", integer=True)
    figure.legend(loc="outside right center")
    floor = " Noise floor: the estimated variance of the noise." if noise_floor else ""
    steps = f"{steps_per_epoch:,} steps" if steps_per_epoch > 1 else "one step"
    return captioned(figure, f"An epoch is {steps}.{floor}")


@style()
def draw_path(
    path: Array,
    names: Sequence[str],
    surfaces: Mapping[tuple[int, int], Array],
    marks: Mapping[str, Sequence[float]],
    num_rows: int,
    target: str,
) -> "Figure":
    """The path of the coefficients over the loss surface, for every pair of them.

    Args:
        path: coefficients over the steps, shape ``(k, c)``.
        names: of the coefficients.
        surfaces: for each pair of coefficients the factor ``G`` ``(3, 3)`` with which ``|G (u, v, -1)|²``
            is the sum of squared residuals, the other coefficients at their best.
        marks: points to be shown, of shape ``(c,)``: ``optimum``, ``true``.
        num_rows: training rows.
        target: name of y.
    """
    figure, panels = make_panels(len(surfaces), width=3.7 if len(surfaces) > 1 else 6)
    points = np.concatenate([path, *([mark] for mark in marks.values())])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    grids, heights = [], []
    for (i, j), G in surfaces.items():
        u, v = (np.linspace(low[k] - margin[k], high[k] + margin[k], 120) for k in (i, j))
        residual = G[:, 0, None, None] * u + G[:, 1, None, None] * v[:, None] - G[:, 2, None, None]
        grids.append((u, v))
        heights.append(np.square(residual).sum(axis=0) / num_rows)
    top = max(height.max() for height in heights) or 1.0
    bottom = min(G[2, 2] ** 2 for G in surfaces.values()) / num_rows
    levels = bottom + (top - bottom) * np.linspace(0, 1, CONTOURS) ** 2  # ellipses at equal distances
    for axes, (i, j), (u, v), height in zip(panels, surfaces, grids, heights, strict=True):
        filled = axes.contourf(u, v, height.clip(levels[0], levels[-1]), levels, colors=SURFACE)
        axes.plot(path[:, i], path[:, j], ".-", color=FIT, linewidth=1.2, markersize=4, label="SGD")
        axes.plot(path[0, i], path[0, j], "o", color="white", markeredgecolor=FIT, markersize=6, label="start")
        for (name, mark), (marker, color) in zip(marks.items(), (("x", DARK), ("o", TRUTH)), strict=False):
            axes.plot(mark[i], mark[j], marker, color=color, fillstyle="none", markersize=9, label=name)
        axes.set(xlabel=short(names[i]), ylabel=short(names[j]))
        axes.grid(visible=False)
    panels[0].set_title("Path over the loss surface")
    bar = figure.colorbar(filled, ax=panels, ticks=levels[::3], format="%.3g", aspect=30, pad=0.01)
    bar.set_label(in_unit("mean squared error", target, "²"))
    bar.outline.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    others = " The third coefficient is at its best for the two." if len(names) > 2 else ""
    return captioned(figure, f"Surface: over the training rows.{others}")


@style()
def draw_coefficients(rows: Sequence[Mapping[str, Any]], scale: Array, target: str, level: float) -> "Figure":
    """Coefficients with their intervals, against the optimum and the truth; at most thirty.

    Args:
        rows: as in ``report.json``, the bias last if there is one.
        scale: standard deviations of the columns of X, shape ``(P,)``.
        target: name of y.
        level: confidence level.
    """
    features = len(scale)
    size = np.array([abs(row.get("t") or row["estimate"] * std) for row, std in zip(rows, scale, strict=False)])
    kept = [*sorted(np.argsort(-size, kind="stable")[:MAX_COEFFICIENTS]), *range(features, len(rows))]
    columns = {key: np.array([rows[i].get(key, np.nan) for i in kept], float) for key in KEYS}
    unit = np.array([scale[i] if i < features else np.nan for i in kept])
    place = -np.arange(len(kept), dtype=float)
    error = np.where(columns["standard_error"] > 0, columns["standard_error"], np.nan)
    away = {key: (columns[key] - columns["optimum"]) / error for key in KEYS}
    compared = np.isfinite(away["true"]).any() or np.nanmax(np.abs(away["estimate"]), initial=0) > 0
    figure, panels = make_panels(1 + compared, width=5 - 0.4 * compared, height=1.6 + 0.26 * len(kept), sharey=True)
    panels[0].set(title="Effect of one standard deviation", xlabel=in_unit("change", target))
    panels[0].set_yticks(place, [short(rows[i]["name"]) for i in kept])
    for axes, values in zip(panels, ({key: values * unit for key, values in columns.items()}, away), strict=False):
        axes.axvline(0, color=DARK, linewidth=0.8, zorder=1)
        low, high, interval = values["ci_low"], values["ci_high"], f"{100 * level:.4g} % interval"
        if (known := np.isfinite(high)).any():
            axes.hlines(place[known], low[known], high[known], color=PALE, linewidth=6, label=interval)
        for key, look in MARKS.items():
            if (known := np.isfinite(values[key])).any():
                axes.plot(values[key][known], place[known], linestyle="", label=key, **look)
    if compared:
        panels[1].set(title="Distance from the optimum", xlabel="standard errors")
    last = panels[-1]
    last.set_ylim(place[-1] - 0.7, 0.7)
    for y, text in zip([0.85, *place], ["estimate", *(f"{value:.6g}" for value in columns["estimate"])], strict=True):
        last.text(1.03, y, text, va="center", transform=last.get_yaxis_transform())
    figure.legend(*last.get_legend_handles_labels(), loc="outside right center")
    which = f"{len(kept)} of {len(rows)} coefficients, the clearest," if len(kept) < len(rows) else "All coefficients,"
    return captioned(figure, f"{which} in the table's own units. Effect: estimate × standard deviation of the column.")


def make_panels(count: int, width: float = 3.6, height: float = 3.6, **options: Any) -> tuple["Figure", list["Axes"]]:
    """A figure of ``count`` panels side by side, each so many inches wide and high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Figure((max(width * count, 5), height), DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False, **options)[0])
    for axes in panels:
        axes.locator_params(nbins=5)  # of more, drawing takes longer than reading
    return figure, panels


def captioned(figure: "Figure", caption: str) -> "Figure":
    """The figure with a sentence below."""
    lines = textwrap.fill(caption, int(15 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, horizontalalignment="left", fontsize=8, color=GREY)
    return figure


def _dots(axes: "Axes", x: Array, y: Array) -> None:
    """A scatter whose dots are smaller and paler the more there are."""
    size, alpha = (8, 0.8) if len(x) < 100 else (6, 0.7) if len(x) < 500 else (3.5, 0.5)
    axes.plot(x, y, ".", color=DATA, markersize=size, alpha=alpha, markeredgewidth=0)
