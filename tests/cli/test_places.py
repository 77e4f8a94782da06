"""Fits and predictions on tables of a local S3 server, beside the same tables here."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.support.commands import CONFIGS, on_processes
from tests.support.services import BUCKET

ROWS = 5000
EXACT = ("fit", "--config", CONFIGS / "exact.yaml", "--data", "Table", "--data.target", "y")
COLUMNS = ("--data.features", "[x, year, region]", "--data.categorical", "[region]")


@pytest.fixture(scope="module")
def frame():
    random = np.random.default_rng(0)
    x, year, region = random.normal(size=ROWS), random.choice([2022, 2023], ROWS), random.choice(["n", "s"], ROWS)
    y = 1 + 2 * x + 0.5 * (year - 2020) - 3 * (region == "s") + random.normal(size=ROWS)
    return pd.DataFrame({"x": x, "year": year, "region": region, "y": y}).sort_values(["year", "region"], kind="stable")


@pytest.fixture(scope="module")
def expected(frame):
    X = np.column_stack([frame["x"], frame["year"], frame["region"] == "s", np.ones(ROWS)])
    return np.linalg.lstsq(X, frame["y"], rcond=None)[0]


@pytest.fixture(scope="module")
def stored(s3, frame):
    """One table in several forms."""
    for (year, region), part in frame.groupby(["year", "region"]):
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pandas(part[["x", "y"]], preserve_index=False), sink, row_group_size=300)
        s3.put(f"sales/year={year}/region={region}/part-0.parquet", sink.getvalue().to_pybytes())
    s3.put("sales/_SUCCESS", b"")
    half = ROWS // 2
    for number, part in enumerate((frame[:half], frame[half:])):
        s3.put(f"packed/{number}.csv.gz", gzip.compress(part.to_csv(index=False, sep=";", decimal=",").encode()))
        s3.put(f"lines/{number}.jsonl", part.to_json(orient="records", lines=True, double_precision=15).encode())
    return f"s3://{BUCKET}"


FORMS = {
    "sales": (),
    "sales/year=*/*/*.parquet": (),
    "packed": ("--data.delimiter", ";", "--data.decimal", ","),
    "lines/*.jsonl": (),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("path", FORMS)
def test_fit_is_that_of_numpy(stored, expected, tmp_path, path, processes):
    flags = ("--data.path", f"{stored}/{path}", *COLUMNS, *FORMS[path], "--figures", "false")
    outcome = on_processes(processes, tmp_path, *EXACT, *flags).succeeded()
    np.testing.assert_allclose(list(outcome.coefficients.values()), expected, rtol=1e-8)
    assert list(outcome.coefficients) == ["x", "year", "region=s", "bias"]


def test_streamed_sgd_from_there_is_that_from_here(stored, frame, linreg, tmp_path):
    frame.to_csv(tmp_path / "here.csv", index=False)
    fused = ("fit", "--config", CONFIGS / "fused.yaml", "--data", "Table", "--data.target", "y", *COLUMNS)
    streamed = ("--data.memory", 1, "--trainer.max_epochs", 2, "--data.standardize", "true")
    found = []
    for name, path in {"here": tmp_path / "here.csv", "there": f"{stored}/sales"}.items():
        outcome = linreg(*fused, *streamed, "--data.path", path, "--trainer.default_root_dir", tmp_path / name)
        outcome.succeeded()
        report = next((tmp_path / name).glob("runs/*/*/report.json"))
        found.append([row["estimate"] for row in json.loads(report.read_text())["coefficients"]])
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.fixture
def run(stored, linreg):
    outcome = linreg(
        *EXACT,
        "--data.path",
        f"{stored}/sales",
        *COLUMNS,
        "--data.clusters",
        "[region, year]",
        "--covariance",
        "cluster",
        "--data.val_fraction",
        0.2,
    ).succeeded()
    return outcome.run


def predict(linreg, run, *flags):
    return linreg("predict", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt", *flags)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_predictions_are_written_there(s3, run, linreg, suffix):
    predict(linreg, run).succeeded()
    there = predict(linreg, run, "--predictions", uri := f"s3://{BUCKET}/out/p.{suffix}", "--data.ids", "[region]")
    assert there.succeeded().stdout.endswith(f"{ROWS} predictions in {uri}\n")
    content = pa.BufferReader(s3.get(f"out/p.{suffix}"))
    found = pd.read_csv(content) if suffix == "csv" else pd.read_parquet(content)
    assert set(found["region"]) == {"n", "s"}
    here = pd.read_parquet(run / "predictions.parquet")
    np.testing.assert_allclose(found["prediction"], here["prediction"], rtol=1e-12)
    assert not list(run.glob("*.tmp"))


def test_predictions_on_two_processes_are_written_there(s3, run, tmp_path):
    common = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    outcome = on_processes(2, tmp_path, "predict", *common, "--predictions", f"s3://{BUCKET}/two/p.parquet")
    outcome.succeeded()
    assert parquet.read_table(pa.BufferReader(s3.get("two/p.parquet")))["row"].to_pylist() == list(range(ROWS))
    assert s3.keys("two/") == ["two/p.parquet"]


def test_predictions_that_fail_leave_nothing(s3, run, linreg, faulty, tmp_path):
    refused = predict(linreg, run, "--predictions", "s3://nowhere/p.parquet")
    assert (refused.status, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("error: s3://nowhere/p.parquet: ")
    faulty.takes = 1000
    broken = predict(linreg, run, "--predictions", f"s3://{BUCKET}/broken/p.parquet")
    assert (broken.status, broken.stderr.count("\n")) == (1, 1)
    assert broken.stderr.startswith(f"error: s3://{BUCKET}/broken/p.parquet: ")
    assert s3.keys("broken/") == []
    assert not list(run.glob("*.tmp"))


def test_cut_in_the_middle_of_a_fit_is_one_sentence(stored, linreg, faulty, tmp_path):
    faulty.sends = 120_000
    outcome = linreg(*EXACT, "--data.path", f"{stored}/sales", *COLUMNS)
    assert (outcome.status, outcome.stderr.count("\n")) == (1, 1)
    assert outcome.stderr.startswith(f"error: {stored}/sales")
    assert not list(tmp_path.glob("runs/*/*/report.json"))


def test_shuffle_reads_from_there(stored, linreg, tmp_path):
    flags = ("--delimiter", ";", "--decimal", ",")
    linreg("shuffle", f"{stored}/packed", "t.parquet", *flags).succeeded()
    assert parquet.read_metadata(tmp_path / "t.parquet").num_rows == ROWS
    assert "set --delimiter ';'" in linreg("shuffle", f"{stored}/packed", "u.parquet").stderr
