"""How pictures look, and parts that they share; white with dark text, so that they are readable on any page."""

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from linreg_pl.errors import printable

Array = NDArray[np.float64]

# Okabe and Ito's colours, which colour-blind people can tell apart, and greys.
DATA, FIT, TRUTH, PALE, DARK, GREY = "#0072B2", "#D55E00", "#009E73", "#9CC7E4", "#222222", "#777777"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#BBBBBB",
    "axes.linewidth": 0.6,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), DARK),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "xtick.minor.size", "ytick.minor.size"), 0),
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # in a column's name, `$` and `_` are ordinary characters
}
FONTS = (  # used where installed, for scripts that matplotlib's own font lacks
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Devanagari",
)  # fmt: skip
DPI = 110
MAX_NAME = 22  # characters of a name in a label


@contextmanager
def style() -> Iterator[None]:
    """Apply this project's style, whatever the user's is; characters that no font has become boxes."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        matplotlib.rcdefaults()
        installed = {font.name for font in fontManager.ttflist}
        families = ["DejaVu Sans", *(name for name in FONTS if name in installed)]
        matplotlib.rcParams.update({**STYLE, "font.family": families})
        yield


@style()
def encode(figure: Figure) -> tuple[bytes, int, int]:
    """Render a figure as PNG; return it with its width and height in pixels."""
    figure.canvas.draw()  # once; `savefig` would draw twice
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png", compress_level=4)
    return content.getvalue(), pixels.shape[1], pixels.shape[0]


def short(name: str) -> str:
    """Shorten a column's name to a label of one line, by leaving out its middle."""
    name = printable(name)
    half = (MAX_NAME - 1) // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}…{name[-half:]}"


def label_with_unit(quantity: str, name: str, power: str = "") -> str:
    """Name a quantity in units of the target, or of its square; in two lines where one would be too long."""
    unit = short(name) if name.isidentifier() or not power else f"({short(name)})"
    return f"{quantity}, in {unit}{power}" if len(unit) < 14 else f"{quantity},\nin {unit}{power}"


def make_panels(count: int, width: float = 3.6, height: float = 3.6, **options: Any) -> tuple[Figure, list[Axes]]:
    """Create a figure of ``count`` panels side by side, each ``width`` by ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    layout = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Figure((max(width * count, 5), height), DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False, **options)[0])
    for axes in panels:
        axes.locator_params(nbins=5)  # ticks take much of the time of drawing
    return figure, panels


def add_caption(figure: Figure, caption: str, legend_of: Axes | None = None) -> Figure:
    """Write a caption below a figure, and beside it the legend of one of its panels; return the figure."""
    if legend_of is not None:
        figure.legend(*legend_of.get_legend_handles_labels(), loc="outside right center")
    lines = textwrap.fill(caption, int(15 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, horizontalalignment="left", fontsize=8, color=GREY)
    return figure


def dots(axes: Axes, x: Array, y: Array) -> None:
    """Draw points, the smaller and paler the more there are."""
    size, alpha = (8, 0.8) if len(x) < 100 else (6, 0.7) if len(x) < 500 else (3.5, 0.5)
    axes.plot(x, y, ".", color=DATA, markersize=size, alpha=alpha, markeredgewidth=0)
