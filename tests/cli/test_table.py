"""Tables: the one that is shipped, NIST's others, and a user's own."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from tests.nist import load
from tests.support.commands import CONFIGS, REPOSITORY, TABLE, in_process


@pytest.fixture(scope="module")
def norris(tmp_path_factory):
    """``configs/table.yaml`` as it stands, run where it says, but leaving its files elsewhere."""
    elsewhere = tmp_path_factory.mktemp("norris")
    outcome = in_process(REPOSITORY, "fit", "--config", TABLE, "--trainer.default_root_dir", elsewhere)
    return outcome._replace(cwd=elsewhere).succeeded()


def relative_errors(coefficients, names, certified):
    return np.abs([coefficients[name] for name in names] / np.array(certified) - 1)


def test_norris_reaches_the_certified_coefficients(norris):
    assert (relative_errors(norris.coefficients, ["bias", "x"], [-0.262323073774029, 1.00211681802045]) < 1e-3).all()
    assert norris.report["train"]["r2"] == pytest.approx(0.999993745883712, abs=1e-9)
    residual_std = (norris.report["train"]["mse"] * 36 / 34) ** 0.5
    assert residual_std == pytest.approx(0.884796396144373, rel=1e-4)


def test_norris_is_nists_table():
    table, certified = csv.read_csv(CONFIGS / "norris.csv"), load("Norris")
    np.testing.assert_array_equal(table["y"], certified.columns["y"])
    np.testing.assert_array_equal(table["x"], certified.X[:, 0])


def test_checkpoint_speaks_the_tables_own_units(norris):
    assert norris.last["coefficients"] == norris.coefficients
    standardised = norris.last["state_dict"]["net.0.weight"].item()
    assert standardised == pytest.approx(norris.coefficients["x"] * load("Norris").X.std(), rel=1e-5)


def test_feature_names_are_resolved_in_the_config(norris):
    assert re.search(r"features:\s+- x\n", (norris.run / "config.yaml").read_text())


def test_longley_runs(linreg, tmp_path):
    longley = load("Longley")
    parquet.write_table(pa.table(longley.columns), tmp_path / "longley.parquet")
    fit = linreg("fit", "--config", TABLE, "--data.path", "longley.parquet", "--trainer.max_epochs", 300).succeeded()
    weights = [fit.coefficients[name] for name in longley.features]
    y = longley.columns["y"]
    residual = y - longley.X @ weights - fit.coefficients["bias"]
    assert fit.report["train"]["mse"] == pytest.approx((residual**2).mean(), rel=1e-3)
    # The columns are nearly collinear, so SGD is slow to the last digits, but not to a good fit.
    assert 0.9 < 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum() < longley.r2


@pytest.fixture
def houses(tmp_path):
    """A table with text, two scales and both float types, and the least-squares fit of it."""
    random = np.random.default_rng(0)
    area, rooms = random.normal(120, 30, 300), random.integers(1, 7, 300)
    price = 1500 * area - 8000 * rooms + 50_000 + random.normal(0, 1000, 300)
    names = [f"house {number}" for number in range(300)]
    table = pa.table({"name": names, "area": area.astype(np.float32), "rooms": rooms, "price": price})
    parquet.write_table(table, tmp_path / "houses.parquet")
    A = np.column_stack([table["area"], rooms, np.ones(300)])
    return A, price


HOUSES = ("--config", TABLE, "--data.path", "houses.parquet", "--data.target", "price")


def test_table_of_ones_own(linreg, houses):
    A, price = houses
    fit = linreg("fit", *HOUSES).succeeded()
    assert fit.stdout.startswith("left out, not numeric: 'name'\n")
    assert list(fit.coefficients) == ["area", "rooms", "bias"]
    assert (relative_errors(fit.coefficients, ["area", "rooms", "bias"], np.linalg.lstsq(A, price)[0]) < 5e-3).all()
    assert not {"true", "error"} & fit.report["coefficients"][0].keys()
    mse = ((A @ list(fit.coefficients.values()) - price) ** 2).mean()
    assert fit.report["train"]["mse"] == pytest.approx(mse, rel=1e-3)


def test_suffix_decides_the_format_not_the_numbers(linreg, houses, tmp_path):
    table = parquet.read_table(tmp_path / "houses.parquet")
    csv.write_csv(table, tmp_path / "houses.csv")
    table = csv.read_csv(tmp_path / "houses.csv")  # area is float64 now
    outcomes = []
    for suffix in ("csv", "parquet"):
        (tmp_path / suffix).mkdir()
        shutil.copy(tmp_path / f"houses.{suffix}", tmp_path / suffix)
        flags = ("--data.path", f"houses.{suffix}", "--data.target", "price")
        outcomes.append(in_process(tmp_path / suffix, "fit", "--config", TABLE, *flags).succeeded().coefficients)
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-5)


def test_held_out_rows_are_scored_in_own_units(linreg, houses):
    A, price = houses
    flags = ("--data.val_fraction", 0.2, "--data.test_fraction", 0.1)
    fit = linreg("fit", *HOUSES, *flags).succeeded()
    assert fit.report["num_train"] == 210
    files = ("--config", fit.run / "config.yaml", "--ckpt_path", fit.run / "checkpoints/last.ckpt")
    linreg("test", *files).succeeded()
    # Rows are in one part each, so the parts' squared errors add up to those of the table.
    squares = sum(fit.report[part]["mse"] * count for part, count in (("train", 210), ("val", 60), ("test", 30)))
    assert squares == pytest.approx(((A @ list(fit.coefficients.values()) - price) ** 2).sum(), rel=1e-3)


def test_new_rows_need_no_target_to_be_predicted(linreg, houses, tmp_path):
    A, _ = houses
    fit = linreg("fit", *HOUSES, "--data.val_fraction", 0.2).succeeded()
    new = parquet.read_table(tmp_path / "houses.parquet").drop_columns(["price", "name"]).slice(0, 40)
    parquet.write_table(new.select(["rooms", "area"]), tmp_path / "new.parquet")  # in another order
    files = ("--config", fit.run / "config.yaml", "--ckpt_path", fit.run / "checkpoints/last.ckpt")
    linreg("predict", *files, "--data.path", "new.parquet").succeeded()
    predicted = parquet.read_table(fit.run / "predictions.parquet")
    assert predicted["row"].to_pylist() == list(range(40))
    np.testing.assert_allclose(predicted["prediction"], A[:40] @ list(fit.coefficients.values()), rtol=1e-5)


def test_checkpoint_of_other_columns_is_refused(linreg, houses, tmp_path):
    fit = linreg("fit", *HOUSES, "--trainer.max_epochs", 1).succeeded()
    files = ("--config", fit.run / "config.yaml", "--ckpt_path", fit.run / "checkpoints/last.ckpt")
    linreg("predict", *files, "--data.features", "[rooms, area]").succeeded()  # the same, matched by name
    outcome = linreg("predict", *files, "--data.features", "[rooms, price]", "--data.target", "area")
    assert outcome.status == 1
    sentence = f"{files[3]}: was made for the features ['area', 'rooms'], not ['rooms', 'price']; set --data.features"
    assert outcome.stderr == f"error: --ckpt_path {sentence}, or use its data\n"


def test_bad_table_is_refused_in_one_line(linreg, tmp_path):
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n2,oops\n")
    outcome = linreg("fit", "--config", TABLE, "--data.path", "bad.csv")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == "error: bad.csv: column 'y', row 2: 'oops' is not a number\n"


def test_standardised_columns_need_a_bias(linreg):
    outcome = linreg("fit", "--config", TABLE, "--data.path", CONFIGS / "norris.csv", "--model.bias", "false")
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: --model.bias false with --data.standardize true: ")


def test_without_standardize_and_bias_the_line_goes_through_zero(linreg):
    flags = ("--data.standardize", "false", "--model.bias", "false", "--model.lr", 1e-6)
    fit = linreg("fit", "--config", TABLE, "--data.path", CONFIGS / "norris.csv", *flags).succeeded()
    norris = load("Norris")
    assert fit.coefficients == pytest.approx({"x": np.linalg.lstsq(norris.X, norris.columns["y"])[0][0]}, rel=1e-4)
