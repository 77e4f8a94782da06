"""What TensorBoard itself, started as the console says, makes of the runs: its data API is asked."""

import inspect
import re
from html.parser import HTMLParser

import pytest

from linreg_pl.data import synthetic, table
from linreg_pl.models import Concise, ElasticNet, Exact, Fused, Scratch
from linreg_pl.runs.logger import CHARTS, COLUMNS, COMPARED, METRIC_TAGS
from tests.support.commands import SCRATCH
from tests.support.dashboard import MISLEADING, ask, tensorboard

MODELS = ("scratch", "concise", "fused", "exact")
NO_COLUMNS = {
    "reading",
    "true_bias",
    "num_val",
    "num_test",
    "levels",
    "ids",
    "clusters",
    "groups",
    "folds",
    "num_penalties",
    "rule",
    "nonnegative",
    "refit",
    "unknown",
    "time_unit",
    "memory",
}  # seldom compared
NO_COLUMNS |= {"val_fraction", "test_fraction", "lr_scheduler", "true_weight", "reduction"}


@pytest.fixture
def scalars(board):
    return ask(board.address, "plugin/scalars/tags")


@pytest.mark.parametrize("tab", ["timeseries", "scalars", "custom_scalars", "text", "hparams"])
def test_tabs_are_open(board, tab):
    assert ask(board.address, "plugins_listing")[tab]["enabled"]


def test_every_run_has_its_curves(board, scalars):
    for run, fit in board.fits.items():
        assert set(METRIC_TAGS) - set(scalars[run]) <= (set() if "val" in fit.report else {"val/mse", "val/r2"})
        names = [f"distance/{name}" for name in fit.coefficients] if fit.report["model"] != "exact" else []
        assert set(names) <= set(scalars[run])


def test_one_layout_serves_all_runs(board):
    (group,) = ask(board.address, "plugin/custom_scalars/layout")["category"]
    assert {chart["title"]: chart["multiline"]["tag"][0] for chart in group["chart"]} == CHARTS


@pytest.mark.parametrize("model", MODELS[:3])
def test_charts_have_their_curves(board, model):
    curves = [
        set(ask(board.address, "plugin/custom_scalars/scalars", run=f"{model}/version_0", tag=pattern)["tag_to_events"])
        for pattern in CHARTS.values()
    ]
    assert curves == [
        {"log10/train_mse", "log10/noise_floor"},
        {"weight/x0", "weight/x1", "bias"},
        {"distance/x0", "distance/x1", "distance/bias"},
        {"log10/val_mse"},
    ]


def test_hparams_line_up_over_all_runs(board):
    experiment = ask(board.address, "plugin/hparams/experiment", {"experimentName": ""})
    assert {info["name"] for info in experiment["hparamInfos"][: len(COMPARED)]} == set(COMPARED)
    columns = [{"hparam": info["name"], "includeInResult": True} for info in experiment["hparamInfos"]]
    columns += [{"metric": info["name"], "includeInResult": True} for info in experiment["metricInfos"]]
    question = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN"], "colParams": columns}
    answer = ask(board.address, "plugin/hparams/session_groups", question | {"startIndex": 0, "sliceSize": 100})
    groups = {group["sessions"][0]["name"]: group for group in answer["sessionGroups"]}
    assert set(groups) == set(board.fits)
    for run, fit in board.fits.items():
        given = groups[run]["hparams"]
        assert given["model"] == fit.report["model"]
        assert given["bias"] is True
        assert (given.get("lr"), given.get("optimizer")) == (
            (None, None) if fit.report["model"] == "exact" else (fit.report["lr"], "SGD")
        )
        shown = {value["name"]["tag"]: value["value"] for value in groups[run]["metricValues"]}
        parts = [tag.split("/") for tag in METRIC_TAGS]
        wanted = {f"{part}/{name}": fit.report[part][name] for part, name in parts if part in fit.report}
        assert shown == pytest.approx(wanted, rel=1e-6)


def test_every_argument_is_a_column_or_seldom_compared():
    kinds = (Scratch, Concise, Fused, Exact, ElasticNet, synthetic.Synthetic, table.Table)
    arguments = {name for kind in kinds for name in inspect.signature(kind).parameters}
    columns = {name for names in COLUMNS.values() for name in names}
    assert columns | NO_COLUMNS == arguments | {"model"}
    assert not columns & NO_COLUMNS


class Cells(HTMLParser):
    """Texts of the cells of all tables, and all tags and attributes."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.tags, self.attributes = [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.lasttag in ("td", "th"):
            self.cells[-1] += data


def text(board, run, tag):
    (event,) = ask(board.address, "plugin/text/text", run=run, tag=tag)
    return event


def test_coefficients_are_a_table_of_what_the_console_shows(board):
    for run, fit in board.fits.items():
        event = text(board, run, "coefficients")
        assert event["step"] == fit.report["steps"]
        cells = [cell.strip() for cell in Cells(event["text"]).cells]
        lines = fit.stdout[fit.stdout.index("estimate") :].split("\n\n")[0].splitlines()[1:]
        assert len(lines) == len(fit.coefficients)
        for name, line in zip(fit.coefficients, lines, strict=True):
            numbers = line.removeprefix(name).split()
            start = cells.index(name)
            assert cells[start + 1 : start + 1 + len(numbers)] == numbers


def test_names_of_columns_are_text_and_nothing_else(board):
    """Neither Markdown nor HTML: no image, no link, no emphasis, no further cell."""
    shown = Cells(text(board, "table/version_0", "coefficients")["text"])
    assert set(MISLEADING) <= {cell.strip() for cell in shown.cells}
    assert shown.tags == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert not shown.attributes
    config = Cells(text(board, "table/version_0", "run/config")["text"])
    assert (config.tags, config.attributes) == ({"pre", "code"}, [])


def test_config_is_that_of_the_run(board):
    for run in board.fits:
        shown = []
        parser = HTMLParser()
        parser.handle_data = shown.append
        parser.feed(text(board, run, "run/config")["text"])
        config = (board.folder / "runs" / run / "config.yaml").read_text(encoding="utf-8")
        assert "".join(shown).strip() == config.strip()


def test_words_name_every_curve(board, scalars):
    words = Cells(text(board, "scratch/version_0", "run/what you see here")["text"])
    named = {name for cell in words.cells for name in cell.strip().split(", ")}
    for tag in scalars["scratch/version_0"]:
        assert re.sub(r"^(weight|distance)/.*", r"\1/NAME", tag) in named


def test_resumed_run_has_every_text_once(linreg, board):
    checkpoint = board.folder / "runs/scratch/version_0/checkpoints/last.ckpt"
    fit = linreg("fit", "--config", SCRATCH, "--ckpt_path", checkpoint, "--trainer.max_epochs", 4).succeeded()
    with tensorboard(fit.cwd, "tensorboard --logdir runs") as address:
        for tag in ("coefficients", "run/config", "run/what you see here"):
            assert len(ask(address, "plugin/text/text", run="scratch/version_0", tag=tag)) == 1
        (group,) = ask(address, "plugin/custom_scalars/layout")["category"]
        assert len(group["chart"]) == len(CHARTS)
