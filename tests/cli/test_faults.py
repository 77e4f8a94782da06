"""Faults that strangers met on real tables, each by the command line."""

import json

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from pyarrow import parquet

from tests.support.commands import in_process

EXACT = ("fit", "--model", "Exact", "--data", "Table", "--data.path")


@pytest.fixture
def fit(tmp_path_factory):
    """Fit `Exact` to a CSV file of some text, in a folder of its own."""

    def run(text, *flags):
        folder = tmp_path_factory.mktemp("fit")
        (folder / "t.csv").write_text(text)
        return in_process(folder, *EXACT, "t.csv", "--data.target", "y", *flags)

    return run


def csv(**columns):
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"


def test_a_level_that_only_dropped_rows_have_is_no_level(fit):
    text = "city,x,y\na,1,1\nb,2,3\na,3,2\nb,4,5\na,5,4.5\nc,6,\n"
    outcome = fit(text, "--data.categorical", "[city]", "--data.missing", "drop").succeeded()
    assert list(outcome.coefficients) == ["city=b", "x", "bias"]
    refused = fit(text.replace("c,6,", "c,6,7") + "a,,8\n", "--data.categorical", "[city]", "--data.missing", "drop")
    assert refused.succeeded().coefficients.keys() > {"city=c"}


def test_rows_of_weight_0_are_no_rows(fit):
    x, w = np.arange(8.0), np.array([1, 2, 0, 1, 3, 0, 1, 0.5])
    y = 2 * x + [0.3, -0.2, 9, 0.1, -0.4, -9, 0.2, 0.0]
    outcome = fit(csv(x=x, w=w, y=y), "--data.weights", "w").succeeded()
    kept = w > 0
    theirs = sm.WLS(y[kept], sm.add_constant(x[kept]), w[kept]).fit()
    ours = {row["name"]: row["standard_error"] for row in outcome.report["coefficients"]}
    assert [ours["bias"], ours["x"]] == pytest.approx(theirs.bse, rel=1e-10)
    assert (outcome.report["num_train"], outcome.report["optimum"]["dof"]) == (6, 4)


def test_prediction_intervals_know_the_weight_of_the_row(fit, tmp_path):
    random = np.random.default_rng(0)

    def table(count):
        x = random.uniform(1, 10, count)
        y = 3 * x + x * random.normal(size=count)  # sd = x
        return {"x": x, "w": 1 / x**2, "y": y}

    outcome = fit(csv(**table(2000)), "--data.weights", "w").succeeded()
    new = table(4000)
    parquet.write_table(pa.table(new), tmp_path / "new.parquet")
    parquet.write_table(pa.table({"x": new["x"]}), tmp_path / "bare.parquet")
    command = ("predict", "--config", outcome.run / "config.yaml", "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    command += ("--data.target", "y")
    said = in_process(tmp_path, *command, "--data.path", "new.parquet", "--predictions", "p.parquet")
    predictions = parquet.read_table(tmp_path / "p.parquet").to_pandas()
    covered = (predictions["low"] < new["y"]) & (new["y"] < predictions["high"])
    assert covered.mean() == pytest.approx(0.95, abs=0.015)
    assert (said.status, "mean weight" in said.stdout) == (0, False)
    bare = in_process(tmp_path, *command, "--data.path", "bare.parquet", "--predictions", "b.parquet")
    assert "the rows have no weights: the intervals are those of rows with the mean weight\n" in bare.stdout


def test_levels_of_a_misspelt_column_are_refused(fit):
    outcome = fit(csv(city="abab", y=range(4)), "--data.categorical", "[city]", "--data.levels", "{ctiy: [a, b]}")
    assert outcome.stderr == ("error: --data.levels: 'ctiy' is not among --data.categorical; did you mean 'city'?\n")


@pytest.mark.parametrize("standardize", ["true", "false"])
def test_a_column_far_from_zero_is_no_constant(fit, standardize):
    t = [30000000000000 + i for i in (1, 2, 3, 4, 5, 6)]
    y = [7 * i + noise for i, noise in zip((1, 2, 3, 4, 5, 6), (4, -3, 1, -4, 2, 0), strict=True)]
    outcome = fit(csv(t=t, y=y), "--data.standardize", standardize).succeeded()
    slope = np.polyfit(np.arange(6.0), y, 1)[0]
    assert outcome.coefficients["t"] == pytest.approx(slope, rel=1e-12)


def test_a_constant_target_has_no_r2_and_is_named(fit):
    outcome = fit(csv(x=[1, 2, 4, 8, 9], y=[0.1] * 5)).succeeded()
    assert "the target 'y' has one value only: there is nothing to explain" in outcome.stdout
    assert not {"r2", "f", "f_p"} & outcome.report["optimum"].keys()
    assert "r2" not in outcome.report["train"]


def test_a_perfect_fit_is_said_to_be_one(fit):
    x = np.array([1.0, 2, 4, 8, 9])
    said = "the columns explain the target exactly: standard errors, t and F are rounding errors"
    assert said in fit(csv(x=x, y=3 * x + 1)).succeeded().stdout
    assert said not in fit(csv(x=x, y=3 * x + 1 + [0, 1e-9, 0, 0, 0])).succeeded().stdout


def test_r2_without_bias_is_labelled(fit):
    x, y = np.arange(1.0, 6), np.array([2.1, 3.9, 6.2, 7.8, 10.1])
    outcome = fit(csv(x=x, y=y), "--model.bias", "false").succeeded()
    theirs = sm.OLS(y, x).fit()
    assert (
        f"r2 about zero, as there is no bias, {theirs.rsquared:.6g}, adjusted {theirs.rsquared_adj:.6g}"
        in outcome.stdout
    )


def test_codes_with_one_that_looks_like_a_number_are_text(fit):
    for odd in ("1E5", "Nan"):
        codes = ["AB1", "CD2", odd, "EF3", "AB1"]
        outcome = fit(csv(code=codes, x=[1, 2, 4, 8, 9], y=[3, 1, 4, 1, 5])).succeeded()
        assert "left out, not numeric: 'code'" in outcome.stdout
        assert list(outcome.coefficients) == ["x", "bias"]


def test_a_feature_of_names_is_sent_to_categorical(fit):
    outcome = fit(csv(city=["Rome", "Bonn"], y=[1, 2]), "--data.features", "[city]")
    assert outcome.stderr == (
        "error: t.csv: column 'city', row 1: 'Rome' is not a number; a feature that holds names can be"
        " --data.categorical\n"
    )


def test_codes_keep_their_leading_zeros(fit, tmp_path):
    zips = ["01234", "10115", "01234", "10115", "20095", "20095"]
    outcome = fit(csv(zip=zips, y=[1, 2, 1.5, 2.5, 4, 5]), "--data.categorical", "[zip]").succeeded()
    assert list(outcome.coefficients) == ["zip=10115", "zip=20095", "bias"]
    parquet.write_table(pa.table({"zip": ["01234", "20095"]}), tmp_path / "new.parquet")
    command = ("predict", "--config", outcome.run / "config.yaml", "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    in_process(tmp_path, *command, "--data.path", "new.parquet", "--predictions", "p.parquet").succeeded()
    assert parquet.read_table(tmp_path / "p.parquet")["prediction"].to_pylist() == pytest.approx([1.25, 4.5])
    ordinary = fit(csv(zip=[2, 10, 1, 10, 2, 1], y=range(6)), "--data.categorical", "[zip]").succeeded()
    assert list(ordinary.coefficients) == ["zip=2", "zip=10", "bias"]  # by their values, as numbers


def test_each_linear_dependence_is_named_with_the_column_to_leave_out(fit):
    a, b, c = np.random.default_rng(0).normal(size=(3, 30)).round(3)
    text = csv(a=a, twice=2 * a, b=b, c=c, sum=b + c, y=a + b)
    outcome = fit(text)
    assert outcome.stderr == (
        "error: the coefficients are not unique: column 'sum' follows linearly from 'b', 'c'; column 'twice' follows"
        " linearly from 'a'. Leave 'sum', 'twice' out of --data.features, or set --model.ridge above 0\n"
    )
    fit(text, "--data.features", "[a, b, c]").succeeded()


def test_the_number_of_rows_is_on_the_console(fit):
    text = csv(x=range(1200), y=[i % 7 for i in range(1200)])
    outcome = fit(text, "--data.val_fraction", 0.25).succeeded()
    assert "\n900 training rows, 1 column\n" in f"\n{outcome.stdout}"
    assert json.loads((outcome.run / "report.json").read_text())["num_train"] == 900


def test_a_fit_worse_than_the_mean_says_so_first_and_fails(tmp_path):
    few = ("fit", "--model", "Scratch", "--data", "Synthetic", "--trainer.max_steps", 3)
    outcome = in_process(tmp_path, *few)
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: the fit is worse than the mean of the target: r2 is -0.")
    report = outcome.stdout.split("\n\n")
    assert report[1].startswith("the fit is worse than the mean of the target: r2 is -0.")
    assert in_process(tmp_path, *few, "--guard", "false").status == 0
