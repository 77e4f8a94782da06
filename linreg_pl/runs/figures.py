"""Figures of a fit, drawn by matplotlib from arrays.

``target`` is the name of y; ``caption`` says which rows are drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from linreg_pl.runs.columns import COLUMNS
from linreg_pl.runs.drawing import (
    DARK,
    DATA,
    FIT,
    PALE,
    TRUTH,
    Array,
    add_caption,
    dots,
    label_with_unit,
    make_panels,
    short,
    style,
)

Curve = Sequence[tuple[int, float]]

MAX_PANELS = 3
MAX_COEFFICIENTS = 30
MAX_NAMED = 9  # columns whose weights are drawn over the penalty
CONTOURS = 13
TREND_PARTS = 10
LABELLED = 3
Row = tuple[int, float, float]
SURFACE = [(1 - 0.62 * depth, 1 - 0.34 * depth, 1 - 0.2 * depth) for depth in np.linspace(1, 0, CONTOURS - 1)]  # blues
MARKS: dict[str, dict[str, Any]] = {
    "optimum": {"marker": "x", "color": DARK, "markersize": 7},
    "true": {"marker": "o", "color": TRUTH, "markersize": 9, "fillstyle": "none"},
    "estimate": {"marker": ".", "color": FIT, "markersize": 7},
}


@style()
def draw_data(
    X: Array, y: Array, weight: Array, bias: float, names: Sequence[str], target: str, caption: str
) -> Figure:
    """Draw targets ``(n,)`` and the fit over each feature of X ``(n, P)``, as in notebook 1; three features at most.

    Those of largest effect are drawn. X and ``weight`` ``(P,)`` are in the features' own units.
    """
    effects = np.abs(weight) * X.std(axis=0)
    shown = sorted(np.argsort(-effects, kind="stable")[:MAX_PANELS])
    if len(shown) < X.shape[1]:
        caption += f"; {len(shown)} of {X.shape[1]} features, those that move the target most"
    figure, panels = make_panels(len(shown), sharey=True)
    middle = float((X @ weight + bias).mean())
    for axes, column in zip(panels, shown, strict=True):
        x = X[:, column]
        dots(axes, x, y)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, middle + weight[column] * (ends - x.mean()), color=FIT, linewidth=1.6)
        axes.set_xlabel(short(names[column]))
    others = ", the other features at their mean" if X.shape[1] > 1 else ""
    panels[0].set(title="Data and fit", ylabel=short(target))
    return add_caption(figure, f"Dots: {caption}. Line: the fit{others}.")


@style()
def draw_fit(fitted: Array, y: Array, weight: Array | None, target: str, caption: str) -> Figure:
    """Draw fitted against true values, residuals against fitted values, and a normal Q-Q plot of the residuals.

    All have shape ``(n,)``. With weights of the rows, the residuals are multiplied by their square roots.
    """
    residual, quantity = y - fitted, "residual"
    if weight is not None:
        fitted, y = fitted[weight > 0], y[weight > 0]
        residual, quantity = residual[weight > 0] * np.sqrt(weight[weight > 0]), "residual × √weight"
    name = short(target)
    figure, (true, against, quantiles) = make_panels(3)
    dots(true, y, fitted)
    ends = [min(y.min(), fitted.min()), max(y.max(), fitted.max())]
    true.plot(ends, ends, color=DARK, linewidth=0.8, zorder=1)
    true.set(title="Fitted against true", xlabel=name, ylabel=f"fitted {name}")
    dots(against, fitted, residual)
    against.axhline(0, color=DARK, linewidth=0.8, zorder=1)
    against.set(title="Residuals", xlabel=f"fitted {name}", ylabel=label_with_unit(quantity, target))
    expected, ordered = normal_quantiles(residual)
    dots(quantiles, expected, ordered)
    normal = expected[[0, -1]]
    quantiles.plot(normal, residual.mean() + residual.std() * normal, color=DARK, linewidth=0.8, zorder=1)
    quantiles.set(title="Normal Q-Q", xlabel="normal quantile", ylabel=label_with_unit(quantity, target))
    lines = "Lines: a perfect fit; residual 0; normal residuals of the same mean and spread."
    return add_caption(figure, f"Dots: {caption}. {lines}")


def normal_quantiles(values: Array) -> tuple[Array, Array]:
    """Medians of normal order statistics (Filliben 1975) and the sorted values, both of shape ``(n,)``."""
    n = len(values)
    share = (np.arange(1, n + 1) - 0.3175) / (n + 0.365)
    share[-1] = 0.5 ** (1 / n)
    share[0] = 1 - share[-1]
    return ndtri(share), np.sort(values)


@style()
def draw_loss(curves: Mapping[str, Curve], noise_floor: float | None, target: str, steps_per_epoch: int) -> Figure:
    """Draw mean squared errors above zero over the SGD steps, on a logarithmic axis.

    The curves are those of ``mini-batch``, ``training rows`` and ``validation rows``, as far as there are any.
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
    axes.yaxis.set_minor_formatter("{x:.3g}" if high < 10 * low else lambda *_: "")  # powers of ten may be missing
    axes.set(title="Loss", xlabel="SGD step", ylabel=label_with_unit("mean squared error", target, "²"))
    axes.locator_params("x", integer=True)
    floor = " Noise floor: the estimated variance of the noise." if noise_floor else ""
    steps = f"{steps_per_epoch:,} steps" if steps_per_epoch > 1 else "one step"
    return add_caption(figure, f"An epoch is {steps}.{floor}", axes)


@style()
def draw_path(
    path: Array,
    names: Sequence[str],
    surfaces: Mapping[tuple[int, int], Array],
    marks: Mapping[str, Sequence[float]],
    num_rows: int,
    target: str,
) -> Figure:
    """Draw the path ``(k, c)`` of c coefficients over the loss surface of each pair of them.

    The surface of a pair is given by a factor ``G`` ``(3, 3)``, so that ``|G (u, v, -1)|²`` is the sum of squared
    residuals, minimised over the other coefficients. The points ``(c,)`` of ``optimum`` and ``true`` are marked.
    """
    figure, panels = make_panels(len(surfaces), width=3.7 if len(surfaces) > 1 else 6)
    points = np.concatenate([path, *([mark] for mark in marks.values())])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    grids = []
    for (i, j), G in surfaces.items():
        u, v = (np.linspace(low[k] - margin[k], high[k] + margin[k], 120) for k in (i, j))
        residual = G[:, 0, None, None] * u + G[:, 1, None, None] * v[:, None] - G[:, 2, None, None]
        grids.append((u, v, np.square(residual).sum(axis=0) / num_rows))
    top = max(height.max() for _, _, height in grids) or 1.0
    bottom = min(G[2, 2] ** 2 for G in surfaces.values()) / num_rows
    levels = bottom + (top - bottom) * np.linspace(0, 1, CONTOURS) ** 2  # ellipses at equal distances
    for axes, (i, j), (u, v, height) in zip(panels, surfaces, grids, strict=True):
        filled = axes.contourf(u, v, height.clip(levels[0], levels[-1]), levels, colors=SURFACE)
        axes.plot(path[:, i], path[:, j], ".-", color=FIT, linewidth=1.2, markersize=4, label="SGD")
        axes.plot(path[0, i], path[0, j], "o", color="white", markeredgecolor=FIT, markersize=6, label="start")
        for name, mark in marks.items():
            axes.plot(mark[i], mark[j], label=name, linestyle="", **MARKS[name] | {"markersize": 9})
        axes.set(xlabel=short(names[i]), ylabel=short(names[j]))
        axes.grid(visible=False)
    panels[0].set_title("Path over the loss surface")
    bar = figure.colorbar(filled, ax=panels, ticks=levels[::3], format="%.3g", aspect=30, pad=0.01)
    bar.set_label(label_with_unit("mean squared error", target, "²"))
    bar.outline.set_visible(False)
    others = " The third coefficient is at its best for the two." if len(names) > 2 else ""
    return add_caption(figure, f"Surface: over the training rows.{others}", panels[0])


@style()
def draw_coefficients(rows: Sequence[Mapping[str, Any]], scale: Array, target: str, level: float) -> Figure:
    """Draw coefficients and their confidence intervals against optimum and true values; thirty features at most.

    The rows are those of ``report.json``, the bias last; ``scale`` ``(P,)`` holds standard deviations of the features.
    """
    features = len(scale)
    size = np.array([abs(row.get("t") or row["estimate"] * std) for row, std in zip(rows, scale, strict=False)])
    kept = [*sorted(np.argsort(-size, kind="stable")[:MAX_COEFFICIENTS]), *range(features, len(rows))]
    columns = {key: np.array([rows[i].get(key, np.nan) for i in kept], float) for key, *_ in COLUMNS}
    unit = np.array([scale[i] if i < features else np.nan for i in kept])
    place = -np.arange(len(kept), dtype=float)
    error = np.where(columns["standard_error"] > 0, columns["standard_error"], np.nan)
    from_optimum = {key: (values - columns["optimum"]) / error for key, values in columns.items()}
    compared = np.isfinite(from_optimum["true"]).any() or np.nanmax(np.abs(from_optimum["estimate"]), initial=0) > 0
    figure, panels = make_panels(1 + compared, width=5 - 0.4 * compared, height=1.6 + 0.26 * len(kept), sharey=True)
    panels[0].set(title="Effect of one standard deviation", xlabel=label_with_unit("change", target))
    panels[0].set_yticks(place, [short(rows[i]["name"]) for i in kept])
    effects = {key: values * unit for key, values in columns.items()}
    for axes, values in zip(panels, (effects, from_optimum), strict=False):
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
    which = f"{len(kept)} of {len(rows)} coefficients, the clearest," if len(kept) < len(rows) else "All coefficients,"
    effect = "Effect: estimate × standard deviation of the column."
    return add_caption(figure, f"{which} in the table's own units. {effect}", last)


@style()
def draw_diagnostics(
    fitted: Array, standardized: Array, leverage: Array, num_coefficients: int, rows: Sequence[Row], caption: str
) -> Figure:
    """Draw the size of residuals over fitted values, and residuals over leverage with contours of Cook's distance.

    The first three have shape ``(n,)``; standardised are residuals divided by ``s √(1 - leverage)``. The rows are the
    most influential ones: number, leverage and standardised residual.
    """
    figure, (size, influence) = make_panels(2, width=4.6)
    root = np.sqrt(np.abs(standardized))
    dots(size, fitted, root)
    parts = np.array_split(np.argsort(fitted), min(TREND_PARTS, len(fitted) // TREND_PARTS) or 1)
    size.plot(*([np.median(values[part]) for part in parts] for values in (fitted, root)), color=FIT, linewidth=1.6)
    size.set(title="Scale-location", xlabel="fitted value", ylabel="√|standardised residual|")
    dots(influence, leverage, standardized)
    if kept := [row for row in rows if np.isfinite(row).all()]:
        _, *places = zip(*kept, strict=True)
        influence.plot(*places, "o", color=FIT, markersize=6, fillstyle="none", label="most influential")
    for number, *place in kept[:LABELLED]:
        influence.annotate(f"{number}", (place[0], place[1]), (5, 3), textcoords="offset points", fontsize=8)
    limits = 1.1 * np.array(influence.get_ylim())
    right = 1.05 * influence.get_xlim()[1]
    h = np.linspace(right / 200, min(right, 0.999), 200)
    for distance, line in ((0.5, ":"), (1.0, "--")):
        bound = np.sqrt(distance * num_coefficients * (1 - h) / h)
        for sign, label in ((1, f"Cook's distance {distance:g}"), (-1, None)):
            influence.plot(h, sign * bound, line, color=DARK, linewidth=0.8, label=label)
    influence.set(title="Influence", xlabel="leverage", ylabel="standardised residual", xlim=(0, right), ylim=limits)
    caption += ". Line: medians of up to ten groups of rows; it is level where errors have equal variance."
    return add_caption(figure, f"Dots: {caption} Rows with their numbers, from 0, are the most influential.", influence)


@style()
def draw_shrinkage(
    penalties: Array, weights: Array, chosen: float, names: Sequence[str], left: Sequence[int], caption: str
) -> Figure:
    """Draw weights ``(L, P)`` over L penalties, the largest first; the first of the columns in ``left`` are named."""
    figure, (axes,) = make_panels(1, width=7)
    axes.plot(penalties, weights, color=PALE, linewidth=0.8)
    for number, column in enumerate(left[:MAX_NAMED]):
        axes.plot(penalties, weights[:, column], color=f"C{number}", linewidth=1.4, label=short(names[column]))
    _over_penalties(axes, chosen)
    axes.set(title="Weights over the penalty", ylabel="weight")
    return add_caption(figure, caption, axes)


@style()
def draw_cross_validation(penalties: Array, mse: Array, se: Array, chosen: float, target: str) -> Figure:
    """Draw the mean squared error on rows left out, and its standard error, over the penalty, all of shape ``(L,)``."""
    figure, (axes,) = make_panels(1, width=7)
    axes.errorbar(penalties, mse, se, color=PALE, linewidth=0, elinewidth=1.2, label="± standard error")
    axes.plot(penalties, mse, color=DATA, linewidth=1.6, label="on rows left out")
    best = mse.argmin()
    axes.axhline(mse[best] + se[best], color=DARK, linewidth=0.8, linestyle=":", label="best + 1 standard error")
    _over_penalties(axes, chosen)
    axes.set(title="Cross-validation", ylabel=label_with_unit("mean squared error", target, "²"))
    how = "Every penalty is fitted to all folds but one, and measured on that one, for each fold."
    return add_caption(figure, how, axes)


def _over_penalties(axes: Axes, chosen: float) -> None:
    axes.axvline(chosen, color=DARK, linewidth=1, linestyle=(0, (5, 3)), label="penalty taken")
    axes.set(xscale="log", xlabel="penalty")
    axes.xaxis.set(inverted=True, major_formatter="{x:g}", minor_formatter="")
