"""Tables larger than ``--data.memory``: the same results, on any number of processes, and no file left behind."""

import gc
import signal
import tempfile
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, feather, parquet

from linreg_pl.data.table import Table
from linreg_pl.tables import csv_files
from tests.support.commands import CONFIGS, in_process, on_processes

COUNT, FEATURES = 70_000, [f"x{number}" for number in range(10)]
FRACTIONS = {"val": 0.4, "test": 0.1}  # the training and the validation rows are over a MiB each
CONFIG = {name: ("--config", CONFIGS / f"{name}.yaml") for name in ("exact", "scratch", "concise", "fused")}
SPLIT = tuple(text for part, share in FRACTIONS.items() for text in (f"--data.{part}_fraction", share))
TABLE = ("--data", "Table", "--data.target", "y", "--data.batch_size", 240, *SPLIT)
SGD = (*TABLE, "--trainer.max_epochs", 2)
STEPS = 2 * 146  # the last of an epoch has 200 rows
STREAMED, IN_MEMORY = ("--data.memory", 1), ("--data.memory", 256)
LR = {"scratch": 0.03, "concise": 0.015, "fused": 0.03}


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    X = random.normal(size=(COUNT, len(FEATURES))) * np.logspace(-2, 2, len(FEATURES)) + np.arange(len(FEATURES))
    y = X @ np.logspace(2, -2, len(FEATURES)) + 4.2 + random.normal(size=COUNT)
    return pa.table({**dict(zip(FEATURES, X.T, strict=True)), "y": y})


@pytest.fixture(scope="module")
def path(table, tmp_path_factory):
    """Ten row groups, none of which ends where another piece does."""
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    parquet.write_table(table, path, row_group_size=7_001)
    return path


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory):
    """A folder for temporary files, which is empty after every run."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def nothing_is_left(temporary):
    yield
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("pymp-")] == []  # multiprocessing's


def fit(folder, name, path, *flags):
    folder.mkdir(exist_ok=True)
    lr = ("--model.lr", LR[name]) if name in LR else ()
    outcome = in_process(folder, "fit", *CONFIG[name], *SGD, *lr, "--data.path", path, *flags)
    return outcome.succeeded()


def column(outcome, key):
    return np.array([row[key] for row in outcome.report["coefficients"]])


def in_standard_errors(one, other):
    return np.abs(column(one, "estimate") - column(other, "estimate")) / column(one, "standard_error")


@pytest.fixture(scope="module")
def streamed(path, tmp_path_factory):
    """Streamed fits on one process, each done once: look, but do not touch."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = fit(tmp_path_factory.mktemp(name), name, path, *STREAMED)
        return done[name]

    return run


def test_exact_coefficients_do_not_depend_on_memory(tmp_path, path, streamed):
    expected = fit(tmp_path, "exact", path, *IN_MEMORY)
    for key in ("estimate", "standard_error"):
        np.testing.assert_allclose(column(streamed("exact"), key), column(expected, key), rtol=1e-9)
    for part in ("train", "val"):
        assert streamed("exact").report[part] == pytest.approx(expected.report[part], rel=1e-9)


def test_exact_coefficients_are_those_of_numpy(table, path, streamed):
    data = Table(str(path), "y", val_fraction=FRACTIONS["val"], test_fraction=FRACTIONS["test"])
    X, y = (tensor.numpy() for tensor in data.raw("train"))
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y[:, 0])[0]
    np.testing.assert_allclose(column(streamed("exact"), "estimate"), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["concise", "fused"])
def test_all_models_take_the_trajectory_of_scratch(streamed, name):
    scratch, other = streamed("scratch"), streamed(name)
    assert scratch.report["steps"] == other.report["steps"] == STEPS
    np.testing.assert_allclose(column(other, "estimate"), column(scratch, "estimate"), rtol=2e-5)
    for part in ("train", "val"):
        for key in ("mse", "r2"):
            assert other.report[part][key] == pytest.approx(scratch.report[part][key], rel=1e-5)


def test_streamed_run_ends_where_the_one_in_memory_does(tmp_path, path):
    calm = ("--data.batch_size", 1000, "--model.lr", 0.01, "--trainer.max_epochs", 20)
    runs = [fit(tmp_path / str(flags[1]), "fused", path, *calm, *flags) for flags in (STREAMED, IN_MEMORY)]
    assert in_standard_errors(*runs).max() < 0.5
    assert runs[0].coefficients != runs[1].coefficients  # it was another order


def test_nothing_is_said_on_stderr(tmp_path, path):
    assert fit(tmp_path, "scratch", path, *STREAMED, "--trainer.max_steps", 1, "--guard", "false").stderr == ""


def test_every_epoch_has_every_training_row_once(path):
    def rows_of_an_epoch(memory):
        shares = {f"{part}_fraction": share for part, share in FRACTIONS.items()}
        data = Table(str(path), "y", standardize=False, batch_size=240, memory=memory, **shares)
        data.setup("fit")
        assert data.streamed("train") == (memory == 1)
        batches = list(data.train_dataloader())
        assert [len(batch.y) for batch in batches] == [240] * 145 + [200]
        return torch.cat([torch.cat([batch.X, batch.y], dim=1) for batch in batches]).numpy()

    some, all_at_once = rows_of_an_epoch(1), rows_of_an_epoch(256)
    assert not np.array_equal(some, all_at_once)
    some, all_at_once = (np.unique(rows, axis=0) for rows in (some, all_at_once))  # sorted
    assert len(some) == COUNT // 2
    np.testing.assert_array_equal(some, all_at_once)


@pytest.mark.parametrize("name", ["scratch", "fused"])
@pytest.mark.parametrize("step", [37, 111, 259])  # within a window, an epoch and the second epoch
def test_resumed_run_ends_with_the_same_bits(tmp_path, path, streamed_in_steps, name, step):
    whole = streamed_in_steps(name)
    (checkpoint,) = whole.run.glob(f"checkpoints/*step={step}.ckpt")
    resumed = fit(tmp_path, name, path, *STREAMED, *EVERY, "--ckpt_path", checkpoint)
    assert (resumed.report["steps"], resumed.report["epochs"]) == (STEPS, 2)
    for key, weights in whole.last["state_dict"].items():
        np.testing.assert_array_equal(resumed.last["state_dict"][key], weights, strict=True)
    for part in ("train", "val"):
        assert resumed.report[part] == whole.report[part]


EVERY = ("--checkpoint.every_n_train_steps", 37, "--checkpoint.save_top_k", -1)


@pytest.fixture(scope="module")
def streamed_in_steps(path, tmp_path_factory):
    """Streamed fits that leave a checkpoint every 37 steps: look, but do not touch."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = fit(tmp_path_factory.mktemp(f"{name}_in_steps"), name, path, *STREAMED, *EVERY)
        return done[name]

    return run


def test_checkpoints_within_an_epoch_change_nothing(streamed, streamed_in_steps):
    assert streamed_in_steps("scratch").coefficients == streamed("scratch").coefficients
    assert streamed_in_steps("fused").coefficients == pytest.approx(streamed("fused").coefficients, rel=1e-6)


ON_PROCESSES = {2: ("scratch", "concise"), 3: ("fused", "exact")}  # three share the last 200 rows unevenly


@pytest.fixture(scope="module", params=ON_PROCESSES)
def processes(request, path, tmp_path_factory):
    """A folder of fits on several processes, and of what they give: look, but do not touch."""
    folder = tmp_path_factory.mktemp("processes")
    done = {}
    for name in ON_PROCESSES[request.param]:
        (folder / name).mkdir()
        run = partial(on_processes, request.param, folder / name)
        lr = ("--model.lr", LR[name]) if name in LR else ()
        fit = run("fit", *CONFIG[name], *SGD, *lr, "--data.path", path, *STREAMED).succeeded()
        for command in ("test", "predict"):
            run(command, "--config", fit.run / "config.yaml", "--ckpt_path", fit.run / "checkpoints/last.ckpt")
        done[name] = fit
    return done


def tolerance(name):
    return 1e-9 if name == "exact" else 1e-5  # float32


def test_processes_agree(processes, streamed):
    for name, many in processes.items():
        one = streamed(name)
        assert (one.report["world_size"], many.report["world_size"]) == (1, 3 if "exact" in processes else 2)
        assert many.report["steps"] == one.report["steps"]
        np.testing.assert_allclose(column(many, "estimate"), column(one, "estimate"), rtol=tolerance(name))
        np.testing.assert_allclose(column(many, "standard_error"), column(one, "standard_error"), rtol=1e-9)
        for part in ("train", "val"):
            assert many.report[part] == pytest.approx(one.report[part], rel=tolerance(name))


def test_processes_agree_on_the_test_rows(processes, path):
    data = Table(str(path), "y", val_fraction=FRACTIONS["val"], test_fraction=FRACTIONS["test"])
    X, y = (tensor.double().numpy() for tensor in data.raw("test"))
    assert len(y) == round(COUNT * FRACTIONS["test"])
    for name, many in processes.items():
        *weight, bias = many.coefficients.values()
        expected = ((X @ weight + bias - y[:, 0]) ** 2).mean()
        assert many.report["test"]["mse"] == pytest.approx(expected, rel=tolerance(name))


def test_predictions_of_several_processes_have_every_row_once_in_order(processes, table):
    X = np.column_stack([table[name] for name in FEATURES])
    for many in processes.values():
        predicted = parquet.read_table(many.run / "predictions.parquet")
        assert predicted["row"].to_pylist() == list(range(COUNT))
        *weight, bias = many.coefficients.values()
        np.testing.assert_allclose(predicted["prediction"], X @ weight + bias, rtol=1e-9, atol=1e-9)
        low, high = (predicted[name].to_numpy() for name in ("low", "high"))
        covered = (low < table["y"].to_numpy()) & (table["y"].to_numpy() < high)
        assert covered.mean() == pytest.approx(0.95, abs=0.01)
        assert not list(many.run.glob("*.tmp"))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
@pytest.mark.parametrize("kind", ["folder", "glob"])
def test_folders_and_globs_are_one_table(tmp_path, table, streamed, monkeypatch, suffix, kind):
    monkeypatch.setattr(csv_files, "LARGE", 2**20)  # so that this file is converted, as a large one is
    write = {"csv": csv.write_csv, "parquet": parquet.write_table, "feather": feather.write_feather}[suffix]
    (tmp_path / "parts").mkdir()
    for number, start in enumerate(range(0, COUNT, 30_000)):
        write(table.slice(start, 30_000), tmp_path / "parts" / f"part-{number}.{suffix}")
    path = tmp_path / "parts" if kind == "folder" else tmp_path / "parts" / f"part-*.{suffix}"
    outcome = fit(tmp_path, "fused", path, *STREAMED)
    for key in ("optimum", "standard_error", "estimate"):
        np.testing.assert_allclose(column(outcome, key), column(streamed("fused"), key), rtol=1e-9)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning's handler keeps the Trainer, and so the table
    gc.collect()  # its temporary file goes with it


def with_a_bad_row(table, tmp_path, row=69_998):
    """The table with a value that is no number near its end."""
    x = table["x3"].to_numpy().copy()
    x[row] = np.inf
    bad = table.set_column(3, "x3", [x])
    parquet.write_table(bad, tmp_path / "bad.parquet", row_group_size=7_001)
    return tmp_path / "bad.parquet"


@pytest.mark.parametrize("standardize", ["true", "false"])  # found before, or while the rows are written to a file
def test_nothing_is_left_after_a_bad_row(tmp_path, table, standardize):
    flags = ("--data.path", with_a_bad_row(table, tmp_path), "--data.standardize", standardize, "--guard", "false")
    outcome = in_process(tmp_path, "fit", *CONFIG["scratch"], *SGD, *STREAMED, *flags, "--optimum", "false")
    assert outcome.status == 1
    assert outcome.stderr.endswith("bad.parquet: column 'x3', row 69999: inf is not a finite number\n")


def test_nothing_is_left_after_a_run_that_diverges(tmp_path, path):
    flags = ("--data.path", path, "--model.lr", 50)
    outcome = in_process(tmp_path, "fit", *CONFIG["fused"], *SGD, *STREAMED, *flags)
    assert outcome.status == 1
    assert "--model.lr" in outcome.stderr


def test_nothing_is_left_after_a_bad_row_to_predict(tmp_path, table, streamed):
    run = streamed("exact").run
    files = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    (tmp_path / "out.parquet").write_text("what was there before")
    flags = ("--data.path", with_a_bad_row(table, tmp_path), "--predictions", "out.parquet")
    outcome = in_process(tmp_path, "predict", *files, *flags)
    assert outcome.status == 1
    assert outcome.stderr.endswith("bad.parquet: column 'x3', row 69999: inf is not a finite number\n")
    assert (tmp_path / "out.parquet").read_text() == "what was there before"
    assert [path.name for path in tmp_path.glob("out.*")] == ["out.parquet"]
