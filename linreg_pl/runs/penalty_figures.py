"""Figures of a choice of the penalty."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from linreg_pl.runs.drawing import (
    DARK,
    DATA,
    PALE,
    Array,
    add_caption,
    label_with_unit,
    make_panels,
    short,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 9  # columns


@style()
def draw_shrinkage(
    penalties: Array, weights: Array, chosen: float, names: Sequence[str], left: Sequence[int], caption: str
) -> "Figure":
    """Draw weights over the penalty.

    Args:
        penalties: shape ``(L,)``, the largest first.
        weights: shape ``(L, P)``.
        chosen: the penalty that was taken.
        names: of the columns.
        left: columns to be named, those of largest weight first.
        caption: what the weights are for.
    """
    figure, (axes,) = make_panels(1, width=7)
    axes.plot(penalties, weights, color=PALE, linewidth=0.8)
    for number, column in enumerate(left[:MAX_NAMED]):
        axes.plot(penalties, weights[:, column], color=f"C{number}", linewidth=1.4, label=short(names[column]))
    _over_penalties(axes, chosen)
    axes.set(title="Weights over the penalty", ylabel="weight")
    figure.legend(loc="outside right center")
    return add_caption(figure, caption)


@style()
def draw_cross_validation(penalties: Array, mse: Array, se: Array, chosen: float, target: str) -> "Figure":
    """Draw the cross-validated error over the penalty.

    Args:
        penalties: shape ``(L,)``, the largest first.
        mse: mean squared error on rows left out, shape ``(L,)``.
        se: its standard error, shape ``(L,)``.
        chosen: the penalty that was taken.
        target: name of y.
    """
    figure, (axes,) = make_panels(1, width=7)
    axes.errorbar(penalties, mse, se, color=PALE, linewidth=0, elinewidth=1.2, label="± standard error")
    axes.plot(penalties, mse, color=DATA, linewidth=1.6, label="on rows left out")
    best = mse.argmin()
    axes.axhline(mse[best] + se[best], color=DARK, linewidth=0.8, linestyle=":", label="best + 1 standard error")
    _over_penalties(axes, chosen)
    axes.set(title="Cross-validation", ylabel=label_with_unit("mean squared error", target, "²"))
    figure.legend(loc="outside right center")
    return add_caption(figure, "Every penalty is fitted to all folds but one, and measured on that one, for each fold.")


def _over_penalties(axes: "Axes", chosen: float) -> None:
    axes.axvline(chosen, color=DARK, linewidth=1, linestyle=(0, (5, 3)), label="penalty taken")
    axes.set(xscale="log", xlabel="penalty")
    axes.xaxis.set(inverted=True, major_formatter="{x:g}", minor_formatter="")
