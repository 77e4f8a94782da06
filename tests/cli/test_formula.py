"""``--data.formula``: twenty formulas on real tables against statsmodels, and what a run with one can be used for."""

import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from numpy import log, sqrt  # noqa: F401  # named in formulas, which statsmodels evaluates here
from pyarrow import parquet

from linreg_pl.data import Table
from linreg_pl.engine import Trainer
from linreg_pl.models import Exact
from tests.support.commands import CONFIGS, REPOSITORY, TABLE, in_process, on_processes

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # within statsmodels
EXACT = ("fit", "--config", CONFIGS / "exact.yaml", "--data", "Table")
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
FORMULAS = {
    "penguins": (
        "body_mass_g ~ flipper_length_mm + species",
        "body_mass_g ~ bill_length_mm * C(species, Treatment('Gentoo'))",
        "log(body_mass_g) ~ species + island + sex + C(year)",
        "body_mass_g ~ species - 1",
        "body_mass_g ~ 0 + species:flipper_length_mm",
        "body_mass_g ~ center(bill_depth_mm) * C(sex)",
        "body_mass_g ~ bs(flipper_length_mm, df=5) + sex",
        "body_mass_g ~ cr(bill_length_mm, df=4, constraints='center')",
        "body_mass_g ~ (species + sex) ** 2",
        "body_mass_g ~ species / bill_length_mm",
    ),
    "grunfeld": (
        "invest ~ value + capital + firm",
        "log(invest) ~ log(value) + log(capital) + C(year)",
        "invest ~ standardize(value) * standardize(capital)",
        "invest ~ C(firm, Sum) + value",
        "invest ~ value:firm + capital",
    ),
    "ccard": (
        "AVGEXP ~ AGE + INCOME + I(INCOME**2) + OWNRENT",
        "AVGEXP ~ C(OWNRENT) * INCOME",
        "AVGEXP ~ bs(AGE, knots=[30, 40], degree=2) + INCOMESQ",
    ),
    "engel": (
        "foodexp ~ income + I((income / 1000) ** 2) + I((income / 1000) ** 3)",
        "sqrt(foodexp) ~ log(income) + I(income > 1000)",
    ),
}


def table(name):
    if name == "penguins":
        return pd.read_csv(REPOSITORY / "tests/data/penguins.csv")
    frame = getattr(sm.datasets, name).load_pandas().data
    return frame.astype({column: str for column in frame if frame[column].dtype == object})


def fit(path, formula, **options):
    data = Table(str(path), formula=formula, missing="drop", **options)
    model = Exact(data.num_features, bias=data.intercept)
    Trainer(**QUIET, accelerator="cpu").fit(model, datamodule=data)
    return data, model


def agree(mine, theirs):
    """Compare estimates and standard errors, whatever the order of the terms."""
    for column, theirs_too in (("estimate", theirs.params), ("standard_error", theirs.bse)):
        np.testing.assert_allclose(np.sort(mine[column]), np.sort(theirs_too), rtol=1e-8)


@pytest.mark.parametrize(("name", "formula"), [(name, formula) for name in FORMULAS for formula in FORMULAS[name]])
@pytest.mark.filterwarnings("ignore")  # of Lightning and of patsy
def test_statsmodels_finds_the_same(tmp_path, capsys, name, formula):
    frame = table(name)
    used = [column for column in frame if re.search(rf"\b{column}\b", formula)]
    theirs = smf.ols(formula, frame.dropna(subset=used)).fit()  # patsy learns nothing where some values are missing
    whole, pieces, shuffled = (tmp_path / f"{part}.parquet" for part in ("whole", "pieces", "shuffled"))
    frame.to_parquet(whole)
    frame.to_parquet(pieces, row_group_size=23)  # no piece has all levels

    data, model = fit(whole, formula)
    weight, bias = model.coefficients()
    inference = data.summary.inference(model.has_bias)
    estimates = np.append(bias.item(), weight.numpy()) if model.has_bias else weight.numpy()
    agree({"estimate": estimates, "standard_error": inference.standard_errors.numpy()}, theirs)

    flags = ("--data.path", pieces, "--data.missing", "drop", "--data.formula", formula)
    outcome = on_processes(2, tmp_path, *EXACT, *flags).succeeded()
    agree(pd.DataFrame(outcome.report["coefficients"]), theirs)
    np.testing.assert_allclose(outcome.report["train"]["r2"], 1 - theirs.ssr / theirs.centered_tss, rtol=1e-8)
    assert outcome.report["formula"] == formula

    # New rows: others, in another order, of which none has all levels.
    target = theirs.model.endog_names
    new = frame.dropna().iloc[::-3].drop(columns=re.findall(r"\w+", target)[-1])
    new.to_parquet(shuffled, row_group_size=7)
    ckpt = outcome.run / "checkpoints/last.ckpt"
    flags = ("--config", outcome.run / "config.yaml", "--ckpt_path", ckpt, "--data.path", shuffled)
    in_process(tmp_path, "predict", *flags, "--trainer.devices", 1, "--trainer.strategy", "auto").succeeded()
    predicted = parquet.read_table(outcome.run / "predictions.parquet")
    expected = theirs.get_prediction(new).summary_frame()
    np.testing.assert_allclose(predicted["prediction"], expected["mean"], rtol=1e-8)
    np.testing.assert_allclose(predicted["low"], expected["obs_ci_lower"], rtol=1e-8)


def test_sgd_and_report_and_resumed_runs(tmp_path):
    formula = "log(body_mass_g) ~ C(species, Treatment('Gentoo')) + poly(flipper_length_mm, 2)"
    flags = ("--data.path", REPOSITORY / "tests/data/penguins.csv", "--data.missing", "drop", "--data.formula", formula)
    outcome = in_process(tmp_path, "fit", "--config", TABLE, *flags).succeeded()
    assert outcome.report["joint_distance"] < 1
    assert "formula: log(body_mass_g) ~ C(species" in outcome.stdout
    assert "errors are in units of log(body_mass_g)" in outcome.stdout
    again = in_process(
        tmp_path, "fit", "--config", outcome.run / "config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", 101
    ).succeeded()
    assert "epoch 101" in again.stdout
    assert "epoch 100" not in again.stdout


def test_what_a_run_with_a_formula_can_be_used_for(tmp_path):
    formula = "body_mass_g ~ flipper_length_mm * sex"
    flags = ("--data.path", REPOSITORY / "tests/data/penguins.csv", "--data.missing", "drop", "--data.formula", formula)
    outcome = in_process(tmp_path, *EXACT, *flags).succeeded()
    wald = in_process(tmp_path, "wald", outcome.run, "sex[T.male] = flipper_length_mm:sex[T.male] = 0").succeeded()
    theirs = smf.ols(formula, table("penguins")).fit()
    f = float(np.squeeze(theirs.f_test("sex[T.male] = flipper_length_mm:sex[T.male] = 0").fvalue))
    assert f"F {f:.6g}" in wald.stdout
    exported = in_process(tmp_path, "export", outcome.run).succeeded()
    assert f"it takes the columns that the formula makes, {formula}" in exported.stdout
    refused = in_process(tmp_path, "refit", outcome.run, "--features", "[sex]")
    assert refused.status == 1
    assert "the run has a formula; fit again" in refused.stderr


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_a_formula_says_whether_there_is_an_intercept(tmp_path):
    flags = ("--data.path", REPOSITORY / "tests/data/penguins.csv", "--data.missing", "drop", "--data.formula")
    outcome = in_process(tmp_path, *EXACT, *flags, "body_mass_g ~ species - 1").succeeded()
    assert list(outcome.coefficients) == ["species[Adelie]", "species[Chinstrap]", "species[Gentoo]"]
    refused = in_process(tmp_path, *EXACT, *flags, "body_mass_g ~ species", "--model.bias", "false")
    assert refused.stderr.strip() == "error: --data.formula: has an intercept: add - 1 to it"
    data = Table(str(flags[1]), formula="body_mass_g ~ species - 1", missing="drop")
    with pytest.raises(Exception, match="has no intercept, the model has: give it bias=False"):
        Trainer(**QUIET, accelerator="cpu").fit(Exact(data.num_features), datamodule=data)


def test_a_formula_beside_other_flags(tmp_path):
    flags = ("--data.path", REPOSITORY / "tests/data/penguins.csv", "--data.formula", "body_mass_g ~ species")
    for flag, value in {
        "target": "year",
        "features": "[sex]",
        "categorical": "[sex]",
        "levels": "{sex: [male]}",
    }.items():
        refused = in_process(tmp_path, *EXACT, *flags, f"--data.{flag}", value)
        assert refused.stderr.strip() == f"error: --data.{flag}: is said by --data.formula; leave it out"
    # that of a config gives way
    outcome = in_process(tmp_path, "fit", "--config", TABLE, *flags, "--data.missing", "drop", "--model", "Exact")
    assert outcome.succeeded().report["target"] == "body_mass_g"
