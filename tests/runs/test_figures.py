"""Pictures against numpy and scipy, and their legibility."""

import io
import itertools

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from linreg_pl.runs import drawing, figures

ROWS = 300
NASTY = ["price_$^{2}$", "$\\frac{x", "面积 😀\nzweite Zeile\x1b[31m", "W" * 200, "a_b^c", "مساحة"]


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def X(random):  # noqa: N802
    return random.normal(size=(ROWS, 5)) + 3


@pytest.fixture
def y(X, random):
    return X @ WEIGHT + 4.2 + random.normal(size=ROWS)


WEIGHT = np.array([2.0, -3.4, 0.0, 0.1, 5.0])
NAMES = [f"x{number}" for number in range(5)]


def dots(axes):
    """The points of the first line."""
    return axes.lines[0].get_xdata(), axes.lines[0].get_ydata()


def texts(figure):
    """Every text that is drawn; ticks beyond the limits have some too, which are not."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes._left_title]
        for axis in (axes.xaxis, axes.yaxis):
            ticks = axis._update_ticks()
            found += [axis.label, axis.offsetText, *(tick.label1 for tick in ticks), *(tick.label2 for tick in ticks)]
    return [text for text in found if text.get_visible() and text.get_text()]


def assert_legible(figure):
    """It is drawn, no text is cut off, and no two lie on each other."""
    png, width, height = drawing.encode(figure)
    image = Image.open(io.BytesIO(png))
    assert image.size == (width, height)
    assert np.asarray(image).std() > 5  # not blank
    boxes = {text: text.get_window_extent(figure.canvas.get_renderer()) for text in texts(figure)}
    for text, box in boxes.items():
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (text, box), (other, its) in itertools.combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(its.padded(-1)), (text, other)


def caption(figure):
    return figure.get_supxlabel().replace("\n", " ")


def test_data_are_drawn_over_the_features_that_move_the_target_most(X, y):
    figure = figures.draw_data(X, y, WEIGHT, 4.2, NAMES, "price", "all training rows")
    assert [axes.get_xlabel() for axes in figure.axes] == ["x0", "x1", "x4"]
    assert figure.axes[0].get_ylabel() == "price"
    for axes, column in zip(figure.axes, (0, 1, 4), strict=True):
        np.testing.assert_array_equal(dots(axes), (X[:, column], y))
        ends, line = axes.lines[1].get_data()
        means = np.tile(X.mean(axis=0), (2, 1))
        means[:, column] = ends
        np.testing.assert_allclose(line, means @ WEIGHT + 4.2)
    assert "3 of 5 features" in caption(figure)
    assert_legible(figure)


def test_residuals_and_their_quantiles_are_those_of_scipy(X, y):
    fitted = X @ WEIGHT + 4
    figure = figures.draw_fit(fitted, y, None, "price", "all training rows")
    true, against, quantiles = figure.axes
    np.testing.assert_array_equal(dots(true), (y, fitted))
    np.testing.assert_array_equal(dots(against), (fitted, y - fitted))
    expected = stats.probplot(y - fitted, fit=False)
    np.testing.assert_allclose(dots(quantiles), expected, rtol=1e-12)
    x, line = quantiles.lines[1].get_data()
    np.testing.assert_allclose(line, (y - fitted).mean() + (y - fitted).std() * x)
    assert (true.get_xlabel(), true.get_ylabel()) == ("price", "fitted price")
    assert (against.get_xlabel(), against.get_ylabel()) == ("fitted price", "residual, in price")
    assert_legible(figure)


def test_residuals_of_weighted_rows_are_weighted(X, y):
    weight = np.arange(ROWS) % 3.0
    fitted = X @ WEIGHT + 4
    figure = figures.draw_fit(fitted, y, weight, "price", "all training rows")
    counted = weight > 0
    np.testing.assert_allclose(dots(figure.axes[1])[1], ((y - fitted) * np.sqrt(weight))[counted])
    assert figure.axes[1].get_ylabel() == "residual × √weight, in price"


def test_loss_is_drawn_on_a_logarithmic_axis_against_the_noise_floor():
    curves = {
        "mini-batch": [(10, 2.0), (30, 0.5)],
        "training rows": [(0, 30.0), (10, 3.0), (30, 0.02)],
        "validation rows": [],
    }
    figure = figures.draw_loss(curves, 0.01, "price", 1234)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["mini-batch"] == [[10, 2], [30, 0.5]]
    assert lines["training rows"] == [[0, 30], [10, 3], [30, 0.02]]
    assert lines["noise floor"] == [[0, 0.01], [1, 0.01]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("SGD step", "mean squared error, in price²")
    assert "1,234 steps" in caption(figure)
    assert_legible(figure)


def test_loss_within_a_power_of_ten_has_numbers_on_its_axis():
    figure = figures.draw_loss({"training rows": [(0, 0.019), (10, 0.012)]}, None, "y", 1)
    assert_legible(figure)
    low, high = figure.axes[0].get_ylim()
    ticks = (*figure.axes[0].yaxis.get_major_ticks(), *figure.axes[0].yaxis.get_minor_ticks())
    shown = {tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high} - {""}
    assert len(shown) >= 2


def test_path_lies_over_the_surface_of_the_loss(random):
    X = random.normal(size=(50, 1))
    y = X @ [2.0] + 4.2 + random.normal(size=50)
    A = np.column_stack([X, np.ones(50), y])
    path = np.array([[0, 0], [1, 3], [2, 4.2]])
    optimum = np.linalg.lstsq(A[:, :2], y)[0]
    factor = np.linalg.qr(A)[1]
    figure = figures.draw_path(path, ["x", "bias"], {(0, 1): factor}, {"optimum": optimum}, 50, "price")
    axes, bar = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), path)
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("x", "bias", "mean squared error, in price²")
    (surface,) = axes.collections
    for level, contour in zip(surface.levels[1:-1], surface.get_paths(), strict=False):
        edge = contour.vertices[: len(contour.vertices) // 4]  # of a filled contour: some of its outer edge
        inside = edge[((edge > contour.vertices.min(axis=0)) & (edge < contour.vertices.max(axis=0))).all(axis=1)]
        mse = np.square(inside @ A[:, :2].T - y).mean(axis=1)
        assert mse.max() <= level * 1.01
    np.testing.assert_allclose(surface.levels[0], np.square(A[:, :2] @ optimum - y).mean())
    assert_legible(figure)


def rows(count, bias=True, **others):
    """Rows of a report, each coefficient larger than the one before."""
    names = [f"x{number}" for number in range(count)] + ["bias"] * bias
    return [
        {"name": name, "estimate": 1.0 + i, "optimum": 1.1 + i, "standard_error": 0.2, "t": 5.0 + i}
        | {"ci_low": 0.7 + i, "ci_high": 1.5 + i, "true": 1.3 + i}
        | others
        for i, name in enumerate(names)
    ]


def test_coefficients_stand_in_their_intervals_against_optimum_and_truth():
    figure = figures.draw_coefficients(rows(2), np.array([10.0, 0.5]), "price", 0.9)
    effect, away = figure.axes
    points = {line.get_label(): line.get_xdata() for line in effect.lines}
    np.testing.assert_allclose(points["estimate"], [10, 1])
    np.testing.assert_allclose(points["optimum"], [11, 1.05])
    np.testing.assert_allclose(points["true"], [13, 1.15])
    np.testing.assert_allclose([path[:, 0] for path in effect.collections[0].get_segments()], [[7, 15], [0.85, 1.25]])
    points = {line.get_label(): line.get_xdata() for line in away.lines}
    np.testing.assert_allclose(points["estimate"], [-0.5] * 3)
    np.testing.assert_allclose(points["true"], [1] * 3)
    np.testing.assert_allclose([path[:, 0] for path in away.collections[0].get_segments()], [[-2, 2]] * 3)
    assert [label.get_text() for label in effect.get_yticklabels()] == ["x0", "x1", "bias"]
    assert {"1", "2", "3", "90 % interval"} <= {text.get_text() for text in texts(figure)}
    assert_legible(figure)


def test_of_many_coefficients_the_clearest_are_shown():
    figure = figures.draw_coefficients(rows(200), np.ones(200), "y", 0.95)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [*(f"x{number}" for number in range(170, 200)), "bias"]
    assert "31 of 201 coefficients" in caption(figure)
    assert_legible(figure)


def test_without_standard_errors_there_is_one_panel():
    for bare in ([{"name": "x0", "estimate": 2.0}], rows(1, standard_error=0.0, ci_low=1.1, ci_high=1.1)):
        figure = figures.draw_coefficients(bare, np.ones(1), "y", 0.95)
        assert len(figure.axes) == 1
        assert_legible(figure)


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_written_as_it_is_or_shortened(X, y, name):
    """As it is means: `$` is no formula. Control characters are replaced."""
    drawn = [
        figures.draw_data(X[:, :1], y, WEIGHT[:1], 0, [name], name, "all"),
        figures.draw_fit(y, y, None, name, "all"),
        figures.draw_loss({"training rows": [(0, 1.0), (1, 0.1)]}, 0.1, name, 1),
        figures.draw_path(np.eye(2), [name, name], {(0, 1): np.eye(3)}, {}, 1, name),
        figures.draw_coefficients(rows(1, name=name), np.ones(1), name, 0.95),
    ]
    for figure in drawn:
        assert_legible(figure)  # and no warning, which would be an error
        label = drawing.short(name)
        assert any(label in text.get_text() for text in texts(figure))
        assert not any(text.get_parse_math() for text in texts(figure))
    assert label.isprintable()
    assert len(label) <= drawing.MAX_NAME


@pytest.mark.parametrize("count", [1, 2, 500])
@pytest.mark.parametrize("target", [0.0, 1e9])
def test_perfect_fit_of_a_constant_target_is_drawn(count, target):
    y = np.full(count, target)
    assert_legible(figures.draw_fit(y, y, None, "y", "all training rows"))
    assert_legible(figures.draw_data(np.ones((count, 2)), y, np.zeros(2), target, ["a", "b"], "y", "all training rows"))


def test_style_is_ours_and_the_users_stays(X, y):
    with matplotlib.rc_context({"figure.facecolor": "black", "text.usetex": True, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        figure = figures.draw_fit(y, y + 1, None, "y", "all training rows")
        png, *_ = drawing.encode(figure)
        assert dict(matplotlib.rcParams) == before
    assert Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_diagnostics(random):
    leverage = random.uniform(0.01, 0.2, size=ROWS)
    standardized = random.normal(size=ROWS)
    rows = [(7, 0.3, 4.0), (123456, 0.25, -3.0), (9, 0.2, 2.5), (11, 1.0, np.nan)]
    figure = figures.draw_diagnostics(random.normal(size=ROWS), standardized, leverage, 6, rows, "all training rows")
    size, influence = figure.axes
    np.testing.assert_allclose(dots(size)[1] ** 2, np.abs(standardized))
    np.testing.assert_allclose(dots(influence), (leverage, standardized))
    curves = {line.get_label(): line.get_xydata() for line in influence.lines}
    for distance in (0.5, 1.0):
        h, residual = curves[f"Cook's distance {distance:g}"].T
        np.testing.assert_allclose(residual**2 / 6 * h / (1 - h), distance)
    assert [text.get_text() for text in influence.texts] == ["7", "123456", "9"]
    assert_legible(figure)


@pytest.mark.parametrize("chosen", [1.0, 1e-3])
def test_penalties(random, chosen):
    penalties = np.geomspace(1, 1e-3, 50)
    weights = np.log(1 / penalties)[:, None] * random.normal(size=12)
    names = [*NASTY, *NAMES, "z"]
    figure = figures.draw_shrinkage(penalties, weights, chosen, names, range(12), "Weights are for the columns.")
    (axes,) = figure.axes
    assert axes.xaxis_inverted()
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines[:12]], weights.T)
    assert_legible(figure)
    mse, se = 1 + penalties**2, 0.1 * np.ones(50)
    figure = figures.draw_cross_validation(penalties, mse, se, chosen, "price")
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(curves["on rows left out"].get_ydata(), mse)
    assert curves["penalty taken"].get_xdata()[0] == chosen
    assert curves["best + 1 standard error"].get_ydata()[0] == pytest.approx(1.1, abs=1e-3)
    assert_legible(figure)
