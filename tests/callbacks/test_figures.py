"""Pictures of runs, in their folders and in TensorBoard."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from linreg_pl.runs import figures
from linreg_pl.tables.sources import Parquet
from tests.support.commands import CONFIGS, SCRATCH, TABLE, Pictures, in_process, on_processes

EXACT, FUSED = ("--config", CONFIGS / "exact.yaml"), ("--config", CONFIGS / "fused.yaml")
pytestmark = pytest.mark.usefixtures("drawing")
SGD = {"data", "fit", "coefficients", "loss", "path"}


@pytest.fixture(scope="module")
def drawing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "wanted", True)
        yield


def pictures(outcome):
    """The files by their names."""
    return {path.stem: path.read_bytes() for path in (outcome.run / "figures").glob("*")}


def images(outcome):
    """TensorBoard's images by their names, each as [(step, PNG), …]."""
    events = EventAccumulator(str(outcome.run), size_guidance={"images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("figures/")]
    return {
        tag.removeprefix("figures/"): [(image.step, image.encoded_image_string) for image in events.Images(tag)]
        for tag in tags
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A sorted table of five row groups, in numbers that float32 would round."""
    random = np.random.default_rng(0)
    X = np.sort(random.normal(size=(10_000, 2)), axis=0)
    y = 1e6 + X @ [2, -3.4] + random.normal(size=len(X))
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    parquet.write_table(pa.table({"a": X[:, 0], "b": X[:, 1], "y": y}), path, row_group_size=2000)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """What the pictures were drawn from, by the names of the functions."""
    calls = {}
    for name in ("draw_data", "draw_fit", "draw_loss", "draw_path", "draw_coefficients"):
        draw = getattr(figures, name)
        monkeypatch.setattr(figures, name, lambda *a, name=name, draw=draw: calls.update({name: a}) or draw(*a))
    return calls


def test_fit_leaves_pictures_of_readable_size(fitted):
    files = pictures(fitted)
    assert files.keys() == SGD
    for content in files.values():
        image = Image.open(io.BytesIO(content))
        image.load()
        assert image.format == "PNG"
        assert 500 <= image.width <= 1300
        assert 200 <= image.height <= 450
        assert len(content) < 150_000


def test_tensorboard_shows_the_same_pictures(fitted):
    assert images(fitted) == {name: [(300, content)] for name, content in pictures(fitted).items()}


def test_pictures_are_of_the_run(linreg, drawn):
    outcome = linreg("fit", *FUSED).succeeded()
    assert pictures(outcome).keys() == SGD
    report = outcome.report
    X, y, weight, bias, names, target, shown = drawn["draw_data"]
    assert (X.shape, names, target, shown) == ((1000, 2), ["x0", "x1"], "y", "all training rows")
    fitted, *_ = drawn["draw_fit"]
    assert np.square(y - fitted).mean() == pytest.approx(report["train"]["mse"], rel=1e-6)
    assert [*weight, bias] == [row["estimate"] for row in report["coefficients"]]
    rows, scale, _, level = drawn["draw_coefficients"]
    assert (rows, level) == (report["coefficients"], 0.95)
    np.testing.assert_allclose(scale, X.std(axis=0))
    curves, noise_floor, _, steps_per_epoch = drawn["draw_loss"]
    assert (noise_floor, steps_per_epoch) == (report["noise_floor"], 100)
    start = np.array([0.01, 0.01, 0])  # about
    assert curves["training rows"][0] == (0, pytest.approx(np.square(y - X @ start[:2]).mean(), rel=0.05))
    assert curves["training rows"][-1] == (300, pytest.approx(report["train"]["mse"]))
    assert curves["validation rows"][-1] == (300, report["val"]["mse"])
    losses = dict(curves["mini-batch"])
    assert len(losses) >= 30
    assert 0.3 < losses[300] / report["noise_floor"] < 3  # of ten rows, in the unit of the floor
    path, names, surfaces, marks, count, _ = drawn["draw_path"]
    np.testing.assert_allclose(path[0], start, atol=0.03)
    assert path[-1].tolist() == [row["estimate"] for row in report["coefficients"]]
    assert marks["optimum"] == [row["optimum"] for row in report["coefficients"]]
    A = np.column_stack([X, np.ones(len(X))])
    for (i, j), factor in surfaces.items():
        (k,) = {0, 1, 2} - {i, j}
        u, v = path[3, [i, j]]
        rest = y - A[:, i] * u - A[:, j] * v
        best = np.square(rest - A[:, k] * (A[:, k] @ rest) / (A[:, k] @ A[:, k])).sum()
        assert np.square(factor @ [u, v, -1]).sum() == pytest.approx(best, rel=1e-9)
    assert len(surfaces) == 3
    assert count == len(X)


def resumed(folder, *flags):
    """A fit that was stopped by a flag, and went on."""
    for name in ("first", "second"):
        (folder / name).mkdir()
    stopped = in_process(folder / "first", "fit", "--config", SCRATCH, *flags).succeeded()
    checkpoint = stopped.run / "checkpoints/last.ckpt"
    return in_process(folder / "second", "fit", "--config", SCRATCH, "--ckpt_path", checkpoint).succeeded()


def test_pictures_of_a_resumed_run_are_those_of_one_that_was_not_stopped(tmp_path, scratch_fit):
    assert pictures(resumed(tmp_path, "--trainer.max_epochs", 2)) == pictures(scratch_fit)


def test_pictures_of_a_run_resumed_within_an_epoch_show_where_it_stopped(tmp_path, scratch_fit, drawn):
    files = pictures(resumed(tmp_path, "--trainer.max_steps", 137))
    for name in ("data", "fit", "coefficients"):
        assert files[name] == pictures(scratch_fit)[name]
    (tmp_path / "whole").mkdir()
    curves, path = drawn["draw_loss"][0], drawn["draw_path"][0]
    in_process(tmp_path / "whole", "fit", "--config", SCRATCH).succeeded()
    for name, points in drawn["draw_loss"][0].items():
        assert [point for point in curves[name] if point[0] != 137] == points
    assert {tuple(point) for point in drawn["draw_path"][0]} < {tuple(point) for point in path}


def test_pictures_can_be_drawn_within_the_fit(linreg, scratch_fit):
    outcome = linreg("fit", "--config", SCRATCH, "--figures", 2).succeeded()
    for name, found in images(outcome).items():
        assert [step for step, _ in found] == [200, 300]
        assert found[-1][1] == pictures(scratch_fit)[name]


def test_pictures_after_the_last_epoch_are_those_of_the_end(linreg):
    outcome = linreg("fit", "--config", SCRATCH, "--figures", 3).succeeded()
    assert {len(found) for found in images(outcome).values()} == {1}


@pytest.mark.parametrize(
    "flags", [("--figures", "false"), ("--trainer.logger", "false"), ("--trainer.fast_dev_run", 2)]
)
def test_no_pictures_where_none_are_wanted(linreg, tmp_path, flags):
    linreg("fit", "--config", SCRATCH, *flags).succeeded()
    assert not list(tmp_path.rglob("figures"))


def test_another_word_is_refused(linreg):
    outcome = linreg("fit", "--config", SCRATCH, "--figures", -1)
    assert (outcome.status, outcome.stderr) == (
        1,
        "error: --figures -1: must be true or false or a positive whole number\n",
    )


def test_validation_leaves_the_pictures_alone(fitted_copy):
    before = {path: path.stat().st_mtime_ns for path in fitted_copy.run.rglob("*.png")}
    run = fitted_copy.run
    flags = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    for command in ("validate", "test", "predict"):
        in_process(fitted_copy.cwd, command, *flags)
    assert {path: path.stat().st_mtime_ns for path in fitted_copy.run.rglob("*.png")} == before


@pytest.mark.parametrize("model", ["Exact", "Fused", "Scratch"])
def test_rows_are_drawn_without_reading_the_table_again(tmp_path, table, drawn, monkeypatch, model):
    read, counts = Parquet.read, []

    def counted(self, units, columns):
        for unit, batch in read(self, units, columns):
            counts[-1] += batch.num_rows
            yield unit, batch

    monkeypatch.setattr(Parquet, "read", counted)
    sgd = () if model == "Exact" else ("--model.lr", 0.01, "--trainer.max_steps", 100, "--guard", "false")
    for wanted in ("false", "true"):
        counts.append(0)
        (tmp_path / wanted).mkdir()
        flags = ("--data", "Table", "--data.path", table, "--data.target", "y", *sgd, "--data.memory", 1)
        fit = in_process(tmp_path / wanted, "fit", "--model", model, *flags, "--figures", wanted).succeeded()
    assert counts[0] == counts[1]
    X, y, *_, shown = drawn["draw_data"]
    assert shown == f"{len(y):,} of 10,000 training rows, drawn at random"
    assert 1900 < len(y) < 2100
    columns = parquet.read_table(table).to_pandas().to_numpy()
    known = {tuple(row) for row in columns.tolist()}
    sample = np.column_stack([X, y])
    assert {tuple(row) for row in sample.tolist()} <= known  # unrounded, though SGD sees float32
    assert len(np.unique(sample, axis=0)) == len(sample)
    quantiles = [np.quantile(values, [0.1, 0.5, 0.9], axis=0) for values in (X, columns[:, :2])]
    np.testing.assert_allclose(*quantiles, atol=0.02)  # one row out of every five
    assert [row["name"] for row in fit.report["coefficients"]] == ["a", "b", "bias"]


def test_pictures_do_not_depend_on_the_number_of_processes(tmp_path, table):
    flags = (*EXACT, "--data", "Table", "--data.path", table, "--data.target", "y")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = in_process(tmp_path / "one", "fit", *flags).succeeded()
    two = on_processes(2, tmp_path / "two", "fit", *flags).succeeded()
    assert pictures(one).keys() == {"data", "fit", "coefficients"}
    assert pictures(two) == pictures(one)


NASTY = {"$^{": "Preis in $_\\frac", "面积 😀": "b\nc\x1b[2J", "../../x": "/etc"}


def test_names_neither_break_pictures_nor_lead_elsewhere(linreg, tmp_path):
    random = np.random.default_rng(0)
    columns = {name: random.normal(size=50) for pair in NASTY.items() for name in pair}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    flags = ("--data.path", tmp_path / "table.parquet", "--data.target", "../../x", "--trainer.max_epochs", 2)
    outcome = linreg("fit", "--config", TABLE, *flags).succeeded()
    assert {path.relative_to(outcome.run).as_posix() for path in tmp_path.rglob("*.png")} == {
        f"figures/{name}.png" for name in SGD - {"path"}
    }


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimum", "false"),
        ("--trainer.log_every_n_steps", 0),
        ("--trainer.max_steps", 137),
        ("--trainer.limit_train_batches", 20),
        ("--trainer.overfit_batches", 5, "--guard", "false"),
        ("--model.bias", "false"),
        ("--model.weight_decay", 0.1),
        ("--data.noise_std", 0, "--data.true_weight", "[0]", "--model.init_std", 0, "--data.true_bias", 0),
        ("--data.num_train", 1, "--data.num_val", 0),
        ("--data.true_weight", "[2]", "--model.bias", "false"),
        ("--guard", "false", "--model.lr", 50),
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_every_run_is_drawn_without_a_warning(linreg, flags):
    outcome = linreg("fit", "--config", SCRATCH, *flags).succeeded()
    assert pictures(outcome)


def test_rows_that_were_never_read_are_not_drawn(linreg):
    assert not pictures(linreg("fit", "--config", SCRATCH, "--trainer.max_epochs", 0).succeeded())
