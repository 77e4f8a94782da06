"""A real table, with categories and missing values, against statsmodels' formulas.

The table is ``penguins.csv`` of the package palmerpenguins 0.1.6, as it is there: Horst, Hill and
Gorman (2020), Palmer Archipelago (Antarctica) penguin data, dedicated to the public domain (CC0).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from pyarrow import csv, parquet

from linreg_pl.data.sampling import Split
from tests.support.commands import CONFIGS, in_process

PENGUINS = Path(__file__).resolve().parents[1] / "data" / "penguins.csv"
SHORT = {"bill_length_mm": "bill", "flipper_length_mm": "flipper", "body_mass_g": "mass"}
CATEGORICAL = ("species", "island", "sex")
FEATURES = ("bill", "flipper", *CATEGORICAL)
FORMULA = "mass ~ bill + flipper + C(species) + C(island) + C(sex)"
EXACT = ("fit", "--config", CONFIGS / "exact.yaml", "--data", "Table", "--data.target", "mass")
FLAGS = ("--data.features", f"[{', '.join(FEATURES)}]", "--data.categorical", f"[{', '.join(CATEGORICAL)}]")
KEYS = {"estimate": "params", "standard_error": "bse", "t": "tvalues", "p": "pvalues"}


@pytest.fixture(scope="module")
def penguins():
    return pd.read_csv(PENGUINS).rename(columns=SHORT)


def fit(folder, frame, *flags):
    """Exact fit of a data frame, through a CSV file."""
    frame.to_csv(folder / "penguins.csv", index=False, na_rep="NA")
    return in_process(folder, *EXACT, *FLAGS, "--data.path", "penguins.csv", *flags).succeeded()


def named_as_here(values):
    """Statsmodels' ``C(sex)[T.male]`` is ``sex=male`` here, and its Intercept the bias."""
    names = {"Intercept": "bias"}
    return values.rename(lambda name: names.get(name) or name.replace("C(", "").replace(")[T.", "=").replace("]", ""))


def assert_same(report, expected, rtol=1e-8, keys=tuple(KEYS)):
    mine = pd.DataFrame(report["coefficients"]).set_index("name")
    assert list(mine.index) == [
        *("bill", "flipper", "species=Chinstrap", "species=Gentoo"),
        *("island=Dream", "island=Torgersen", "sex=male", "bias"),
    ]
    for key in keys:
        values = named_as_here(getattr(expected, KEYS[key]))[mine.index]
        np.testing.assert_allclose(mine[key], values, rtol=rtol, err_msg=key)


def predicted(folder, run, *flags, out="out.parquet"):
    files = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    in_process(folder, "predict", *files, "--predictions", out, *flags).succeeded()
    return (csv.read_csv if out.endswith(".csv") else parquet.read_table)(folder / out).to_pandas()


@pytest.fixture(scope="module")
def dropped(penguins, tmp_path_factory):
    """The fit of the complete rows: look, but do not touch."""
    return fit(tmp_path_factory.mktemp("dropped"), penguins, "--data.missing", "drop", "--data.ids", "[year]")


@pytest.fixture(scope="module")
def of_statsmodels(penguins):
    return smf.ols(FORMULA, penguins.dropna(subset=[*FEATURES, "mass"])).fit()


def test_coefficients_and_standard_errors_are_those_of_statsmodels(dropped, of_statsmodels):
    assert_same(dropped.report, of_statsmodels)
    for key in ("rsquared", "rsquared_adj", "fvalue", "f_pvalue", "aic", "bic"):
        mine = {"rsquared": "r2", "rsquared_adj": "adjusted_r2", "fvalue": "f", "f_pvalue": "f_p"}.get(key, key)
        assert dropped.report["optimum"][mine] == pytest.approx(getattr(of_statsmodels, key), rel=1e-8)


def test_missing_values_are_counted(dropped, penguins):
    counts = penguins[[*FEATURES, "mass"]].isna().sum()
    assert dropped.report["missing"] == {
        "columns": counts[counts > 0].to_dict(),
        "done": "drop",
        "rows_left_out": 11,
    }
    assert dropped.report["num_train"] == 333


def test_missing_values_are_refused_at_first(tmp_path, penguins):
    penguins.to_csv(tmp_path / "penguins.csv", index=False, na_rep="NA")
    outcome = in_process(tmp_path, *EXACT, *FLAGS, "--data.path", "penguins.csv")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "error: penguins.csv: column 'bill', row 4: the value is missing; fill it in, or set --data.missing drop or"
        " mean\n"
    )


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_other_formats_give_the_same(tmp_path, penguins, of_statsmodels, suffix):
    frame = penguins.astype({"species": "category"})  # a dictionary in the file
    getattr(frame, f"to_{suffix}")(tmp_path / f"penguins.{suffix}")
    flags = ("--data.path", f"penguins.{suffix}", "--data.missing", "drop")
    assert_same(in_process(tmp_path, *EXACT, *FLAGS, *flags).succeeded().report, of_statsmodels)


def test_weights_are_those_of_statsmodels(tmp_path, penguins):
    frame = penguins.assign(weight=np.random.default_rng(0).gamma(2.0, 30.0, len(penguins)))
    report = fit(tmp_path, frame, "--data.missing", "drop", "--data.weights", "weight").report
    complete = frame.dropna(subset=[*FEATURES, "mass"])
    expected = smf.wls(FORMULA, complete, weights=complete["weight"]).fit()
    assert_same(report, expected)
    assert report["optimum"]["r2"] == pytest.approx(expected.rsquared, rel=1e-8)
    assert report["train"]["r2"] == pytest.approx(expected.rsquared, rel=1e-8)


def test_mean_of_the_training_rows_replaces_missing_numbers(tmp_path, penguins):
    frame = penguins.dropna(subset=["sex", "mass"]).reset_index(drop=True)
    random = np.random.default_rng(0)
    for name in ("bill", "flipper"):
        frame.loc[random.random(len(frame)) < 0.15, name] = np.nan
    flags = ("--data.missing", "mean", "--data.val_fraction", 0.25)
    run = fit(tmp_path, frame, *flags)
    training = Split(len(frame), (0.25, 0.0), seed=0).parts(0, len(frame)).numpy() == 0
    filled = frame.fillna(frame[training][["bill", "flipper"]].mean())
    expected = smf.ols(FORMULA, filled[training]).fit()
    assert_same(run.report, expected)
    assert run.report["missing"]["columns"] == frame[["bill", "flipper"]].isna().sum().to_dict()
    errors = filled["mass"] - expected.predict(filled)
    assert run.report["val"]["mse"] == pytest.approx((errors[~training] ** 2).mean(), rel=1e-9)
    # At predict time too, and of a file whose own mean is another.
    frame[:50].to_csv(tmp_path / "first.csv", index=False, na_rep="NA")
    table = predicted(tmp_path, run.run, "--data.path", "first.csv")
    np.testing.assert_allclose(table["prediction"], expected.predict(filled[:50]), rtol=1e-9)


@pytest.mark.parametrize("out", ["out.parquet", "out.csv"])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_predictions_and_intervals_are_those_of_statsmodels(tmp_path, dropped, penguins, of_statsmodels, out, level):
    path = ("--data.path", dropped.cwd / "penguins.csv", "--confidence_level", level)
    table = predicted(tmp_path, dropped.run, *path, out=out)
    assert list(table) == ["row", "year", "prediction", "standard_error", "low", "high"]
    assert table["row"].tolist() == list(range(344))
    assert table["year"].tolist() == penguins["year"].tolist()
    complete = penguins[list(FEATURES)].notna().all(axis=1)
    numbers = table[["prediction", "standard_error", "low", "high"]]
    assert numbers[~complete].isna().all(axis=None)
    frame = of_statsmodels.get_prediction(penguins[complete]).summary_frame(alpha=1 - level)
    error = np.hypot(frame["mean_se"], of_statsmodels.mse_resid**0.5)  # of a new observation
    expected = np.column_stack([frame["mean"], error, frame["obs_ci_lower"], frame["obs_ci_upper"]])
    np.testing.assert_allclose(numbers[complete], expected, rtol=1e-9)
    assert not list(tmp_path.glob("*.tmp"))


def test_sgd_ends_at_the_coefficients_of_statsmodels(tmp_path, penguins, of_statsmodels):
    penguins.to_csv(tmp_path / "penguins.csv", index=False, na_rep="NA")
    flags = ("--data.path", "penguins.csv", "--data.target", "mass", "--data.missing", "drop", "--model.lr", 0.02)
    run = in_process(tmp_path, "fit", "--config", CONFIGS / "table.yaml", *FLAGS, *flags, "--trainer.max_epochs", 500)
    assert_same(run.succeeded().report, of_statsmodels, keys=("standard_error",))
    assert run.report["missing"]["rows_left_out"] == 11
    distances = named_as_here(of_statsmodels.params) - pd.Series(run.coefficients)
    ratio = distances / named_as_here(of_statsmodels.bse)
    assert ratio.abs().max() < 1, ratio
