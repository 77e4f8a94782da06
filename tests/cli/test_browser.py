"""What a person sees of the runs in TensorBoard, in a real browser; collected where there is one, as in CI."""

import re

import pytest

from linreg_pl.runs.logger import CHARTS, COMPARED, METRIC_TAGS
from tests.support.dashboard import MISLEADING, ask, browser

MODELS = ("scratch", "concise", "fused", "exact")


@pytest.fixture(scope="module")
def look(board):
    """Texts seen at an address of TensorBoard."""
    with browser() as see:
        yield lambda path, *wanted: see(f"{board.address}/{path}", *wanted)


def link(fit):
    """What the console says, without the machine."""
    return re.search(r"http://localhost:6006/(\S+)", fit.stdout)[1]


@pytest.mark.parametrize("model", MODELS)
def test_time_series(look, board, model):
    run = f"{model}/version_0"
    report = board.fits[run].report
    scores = [f"{report[part]['rmse']:.4f}" for part in ("train", "val")]
    look(f"?runFilter=%5E{run}$&tagFilter=rmse&smoothing=0#timeseries", run, "Value", *scores)


@pytest.mark.parametrize("model", MODELS)
def test_scalars(look, model):
    tag = "train/mse" if model == "exact" else "bias"
    texts = look(f"#scalars&regexInput=%5E{model}/version_0$&tagFilter=%5E{tag}$", f"{model}/version_0", tag, "tag:")
    assert [text for text in texts if text.endswith("/version_0")] == [f"{model}/version_0"]


@pytest.mark.parametrize("model", MODELS[:3])
def test_link_of_the_console_shows_the_run_at_a_glance(look, board, model):
    counts = [f"Matches ({count})" for count in (2, 3, 3, 1)]  # of curves in the charts
    texts = look(link(board.fits[f"{model}/version_0"]), f"{model}/version_0", *CHARTS, *counts)
    assert [text for text in texts if text.startswith("Matches")] == counts
    assert [text for text in texts if text.endswith("/version_0")] == [f"{model}/version_0"]


@pytest.mark.parametrize("model", [*MODELS, "table"])
def test_text(look, board, model):
    """The link of exact leads here: it has no steps to chart."""
    fit = board.fits[f"{model}/version_0"]
    path = link(fit) if model == "exact" else f"#text&regexInput=%5E{model}/version_0$"
    look(path, "estimate", *fit.coefficients, f"{fit.coefficients['bias']:.6g}", "weight/NAME, bias")


def test_hparams_of_five_runs_stand_side_by_side(look, board):
    texts = look("#hparams", *board.fits, *COMPARED, *METRIC_TAGS)
    starts = {run: texts.index(run) for run in board.fits}
    for run, fit in board.fits.items():
        row = texts[starts[run] + 1 :][:10]  # up to five hyperparameters and five metrics; empty cells have no text
        row = row[: next((index for index, text in enumerate(row) if text in board.fits), None)]
        assert fit.report["model"] in row
        numbers = [float(text) for text in row if re.fullmatch(r"[\d.]+", text)]
        for part in {"train", "val"} & fit.report.keys():
            assert pytest.approx(fit.report[part]["mse"], rel=1e-4) in numbers


def test_names_of_columns_are_only_text(look):
    """No dialog opens, and TensorBoard meets no error of its own."""
    look("?runFilter=table&tagFilter=%5Eweight#timeseries", "table/version_0", "Value")
    look("#scalars&regexInput=table&tagFilter=%5Eweight", *(f"weight/{name}" for name in MISLEADING))
    drawn = [name for name in MISLEADING if "(" not in name]
    look("#custom_scalars&regexInput=table", *CHARTS, f"Matches ({len(drawn) + 1})")


@pytest.mark.parametrize("model", MODELS)
def test_images(look, board, model):
    run = f"{model}/version_0"
    tags = ask(board.address, "plugin/images/tags")[run]
    drawn = {"data", "fit", "coefficients"} | (set() if model == "exact" else {"loss", "path"})
    assert set(tags) == {f"figures/{name}" for name in drawn}
    look(f"#images&regexInput=%5E{run}$", run, "[picture]", sorted(tags)[0])
    look(f"?runFilter=%5E{run}$&tagFilter=%5Efigures/fit$#timeseries", run, "[picture]")
