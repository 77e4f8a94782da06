"""Every SGD fit is shown against the least-squares optimum of its training rows."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from linreg_pl.data.synthetic import Synthetic
from tests.support.commands import CONCISE, SCRATCH, TABLE, in_process, on_processes

pytestmark = pytest.mark.usefixtures("scratch_fit", "concise_fit")

LOSS_PER_SQUARED_ERROR = {"scratch": 0.5, "concise": 1.0}
BY_OPTIMUM = {"optimum", "distance", "standard_error", "ci_low", "ci_high", "t", "p"}


def ols(X, y, bias=True):
    """statsmodels' fit, the bias last."""
    return sm.OLS(y, np.column_stack([X, np.ones(len(X))]) if bias else X, hasconst=bias).fit()


def default_rows():
    X, y = Synthetic().raw("train")
    return X.double().numpy(), y.double().numpy()[:, 0]


def column(outcome, key):
    return np.array([row[key] for row in outcome.report["coefficients"]])


def assert_shown_against(outcome, theirs, rtol=1e-9):
    np.testing.assert_allclose(column(outcome, "optimum"), theirs.params, rtol=rtol)
    np.testing.assert_array_equal(column(outcome, "distance"), column(outcome, "estimate") - column(outcome, "optimum"))
    np.testing.assert_allclose(column(outcome, "standard_error"), theirs.bse, rtol=rtol)
    np.testing.assert_allclose(column(outcome, "ci_low"), theirs.conf_int()[:, 0], rtol=rtol)
    np.testing.assert_allclose(column(outcome, "ci_high"), theirs.conf_int()[:, 1], rtol=rtol)
    np.testing.assert_allclose(column(outcome, "t"), theirs.tvalues, rtol=rtol)
    assert outcome.report["noise_floor"] == pytest.approx(theirs.mse_resid, rel=rtol)
    expected = {
        "mse": theirs.ssr / theirs.nobs,
        "residual_std": theirs.mse_resid**0.5,
        "dof": theirs.df_resid,
        "r2": theirs.rsquared,
        "rank": len(theirs.params),
        "condition_number": theirs.condition_number,
    }
    assert {key: outcome.report["optimum"][key] for key in expected} == pytest.approx(expected, rel=rtol)


def losses(outcome):
    return [float(loss) for loss in re.findall(r"^epoch \d+, loss (\S+)$", outcome.stdout, re.MULTILINE)]


def curves(outcome):
    """Values of every scalar by step."""
    events = EventAccumulator(str(outcome.run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.fixture
def houses(tmp_path):
    """Columns of unequal scale and a large mean; float64."""
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 2)) * [30.0, 1e-3] + [1e4, 2.0]
    y = X @ [15.0, 2e4] + 1e5 + random.normal(size=400)
    parquet.write_table(pa.table({"area": X[:, 0], "rate": X[:, 1], "price": y}), tmp_path / "houses.parquet")
    return X, y


HOUSES = ("fit", "--config", TABLE, "--data.path", "houses.parquet", "--data.target", "price")


def test_report_is_that_of_statsmodels(fitted):
    assert_shown_against(fitted, ols(*default_rows()))


def test_without_bias(linreg):
    fit = linreg("fit", "--config", SCRATCH, "--model.bias", "false", "--model.lr", 0.01).succeeded()
    assert_shown_against(fit, ols(*default_rows(), bias=False))


def test_standardised_table_speaks_its_own_units(linreg, houses):
    fit = linreg(*HOUSES, "--data.standardize", "true").succeeded()
    assert_shown_against(fit, ols(*houses), rtol=1e-8)  # the means cost a digit in statsmodels too
    assert (np.abs(column(fit, "distance")) < np.abs(column(fit, "optimum"))).all()  # not in standard deviations


def test_held_out_rows_are_left_out(linreg, houses):
    fit = linreg(*HOUSES, "--data.val_fraction", 0.25, "--trainer.max_epochs", 20).succeeded()
    assert (fit.report["num_train"], fit.report["optimum"]["dof"]) == (300, 297)
    assert not np.isclose(fit.report["noise_floor"], ols(*houses).mse_resid, rtol=1e-6)


def test_processes_share_the_pass(tmp_path):
    fit = on_processes(2, tmp_path, "fit", "--config", SCRATCH, "--trainer.max_epochs", 1)
    assert (fit.status, fit.report["world_size"]) == (0, 2)
    assert_shown_against(fit, ols(*default_rows()))


@pytest.mark.parametrize("config", [SCRATCH, CONCISE], ids=lambda config: config.stem)
def test_it_can_be_left_out_and_the_run_is_the_same(linreg, request, config):
    with_it = request.getfixturevalue(f"{config.stem}_fit")
    without = linreg("fit", "--config", config, "--optimum", "false").succeeded()
    assert not {"optimum", "noise_floor", "note"} & without.report.keys()
    assert not BY_OPTIMUM & without.report["coefficients"][0].keys()
    assert with_it.report["coefficients"][0].keys() > BY_OPTIMUM
    assert not [tag for tag in curves(without) if tag.startswith(("log10/train", "log10/noise", "distance/"))]
    assert "SGD error" not in without.stdout
    assert "noise floor" not in without.stdout

    assert without.coefficients == with_it.coefficients
    assert len(losses(without)) == 3
    assert losses(without) == pytest.approx(losses(with_it), abs=1.5e-6)  # six decimals
    for tag in ("train/loss", "train/mse", "train/r2"):  # without it they are computed in the model's float32
        assert curves(without)[tag] == pytest.approx(curves(with_it)[tag], rel=1e-4)


def test_loss_by_the_factor_is_that_of_a_pass(fitted):
    X, y = default_rows()
    *weight, bias = column(fitted, "estimate")
    mse = np.square(y - X @ weight - bias).mean()
    train, own = fitted.report["train"], LOSS_PER_SQUARED_ERROR[fitted.report["model"]]
    assert train["mse"] == pytest.approx(mse, rel=1e-6)
    assert train["loss"] == pytest.approx(own * mse, rel=1e-6)
    assert train["r2"] == pytest.approx(1 - mse / y.var(), rel=1e-9)


@pytest.mark.parametrize("standardize", ["true", "false"])
def test_loss_of_a_table_by_the_factor_is_that_of_a_pass(linreg, houses, standardize):
    X, y = houses
    lr = 0.1 if standardize == "true" else 1e-9
    flags = ("--data.standardize", standardize, "--model.lr", lr, "--trainer.max_epochs", 2, "--guard", "false")
    fit = linreg(*HOUSES, *flags).succeeded()
    *weight, bias = column(fit, "estimate")
    mse = np.square(y - X @ weight - bias).mean()
    assert mse > 10  # far from the optimum, where the loss is hardest to get by the factor in a wrong way
    assert fit.report["train"]["mse"] == pytest.approx(mse, rel=1e-6)


def test_curves_end_in_the_report(fitted):
    scalars = curves(fitted)
    for row in fitted.report["coefficients"]:
        tag = f"distance/{row['name']}"
        assert scalars[tag].keys() == set(range(10, 301, 10))
        assert scalars[tag][300] == pytest.approx(row["distance"], rel=1e-6)
    assert scalars["log10/train_mse"][300] == pytest.approx(math.log10(fitted.report["train"]["mse"]), abs=1e-6)
    floor = math.log10(ols(*default_rows()).mse_resid)
    assert list(scalars["log10/noise_floor"].values()) == pytest.approx([floor] * 30, abs=1e-6)


def test_curves_are_right_at_every_point(fitted):
    X, y = default_rows()
    scalars, optimum = curves(fitted), ols(X, y).params
    for step, log_mse in scalars["log10/train_mse"].items():
        theta = [scalars[tag][step] for tag in ("weight/x0", "weight/x1", "bias")]
        distance = [scalars[f"distance/{name}"][step] for name in ("x0", "x1", "bias")]
        np.testing.assert_allclose(distance, theta - optimum, atol=1e-6)  # TensorBoard keeps float32
        assert log_mse == pytest.approx(math.log10(np.square(y - X @ theta[:2] - theta[2]).mean()), abs=1e-3)


def verdict(outcome):
    """The sentence on how far SGD is from the optimum, and its joint distance."""
    (line,) = re.findall(r"^SGD .*$", outcome.stdout, re.MULTILINE)
    return line, float(re.search(r"joint distance ([\d.,e+-]+),", line)[1].replace(",", ""))


@pytest.mark.parametrize(("epochs", "least", "most"), [(11, 1, 40), (15, 0.01, 0.2)])
def test_console_says_whether_the_distance_matters(linreg, epochs, least, most):
    whole = ("--data.batch_size", 1000, "--model.lr", 0.5)  # every step halves the distance
    fit = linreg("fit", "--config", SCRATCH, *whole, "--trainer.max_epochs", epochs).succeeded()
    theirs = ols(*default_rows())
    away = np.roll(column(fit, "estimate"), 1) - np.roll(theirs.params, 1)
    f = float(theirs.f_test((np.eye(3), column(fit, "estimate"))).fvalue)  # statsmodels': are these the truth?
    assert least <= f < most, away
    line, distance = verdict(fit)
    assert distance == pytest.approx(f, rel=0.06)  # two digits
    assert fit.report["joint_distance"] == pytest.approx(f, rel=1e-6)
    if f > 1:  # each epoch quarters the square
        assert line.startswith("SGD is not at the optimum")
        to_go = fit.report["epochs_to_go"]
        assert f / 4.5**to_go < 0.5 < f / 3.5 ** (to_go - 1)
        assert f"too few steps: it takes about {to_go} more epochs" in line
    else:
        assert line.startswith("SGD has come as near to the optimum as the data can tell")


@pytest.mark.parametrize(
    ("config", "flags"),
    [(SCRATCH, ("--model.weight_decay", 0.1)), (CONCISE, ("--model.loss", "huber"))],
    ids=["weight_decay", "huber"],
)
def test_fit_that_aims_elsewhere_has_no_standard_errors(linreg, config, flags):
    fit = linreg("fit", "--config", config, *flags).succeeded()
    np.testing.assert_allclose(column(fit, "optimum"), ols(*default_rows()).params, rtol=1e-9)
    assert fit.report["coefficients"][0].keys() & BY_OPTIMUM == {"optimum", "distance"}
    assert "SGD error" not in fit.stdout


def test_other_loss_is_taken_in_a_pass(linreg):
    fit = linreg("fit", "--config", CONCISE, "--model.loss", "absolute").succeeded()
    X, y = default_rows()
    *weight, bias = column(fit, "estimate")
    residual = y - X @ weight - bias
    assert fit.report["train"]["loss"] == pytest.approx(np.abs(residual).mean(), rel=1e-4)
    assert fit.report["train"]["mse"] == pytest.approx(np.square(residual).mean(), rel=1e-4)


def test_dependent_columns_have_no_unique_optimum_but_a_fit(linreg, tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=200)
    y = 3 * x + random.normal(size=200)
    parquet.write_table(pa.table({"x": x, "copy": x, "price": y}), tmp_path / "houses.parquet")
    fit = linreg(*HOUSES).succeeded()
    assert fit.report["note"] == "the rows do not determine a unique optimum, so there are no standard errors"
    assert not BY_OPTIMUM & fit.report["coefficients"][0].keys()
    assert fit.report["train"]["mse"] == pytest.approx(ols(x[:, None], y).ssr / 200, rel=0.05)
    mse = np.square(y - (column(fit, "estimate")[:2].sum() * x + column(fit, "estimate")[2])).mean()
    assert fit.report["train"]["mse"] == pytest.approx(mse, rel=1e-6)


def test_as_many_rows_as_coefficients_have_an_optimum_without_errors(linreg):
    fit = linreg("fit", "--config", SCRATCH, "--data.num_train", 3, "--guard", "false").succeeded()
    assert "optimum" in fit.report["coefficients"][0]
    assert "standard_error" not in fit.report["coefficients"][0]
    assert "noise_floor" not in fit.report


def test_factor_is_kept_in_the_checkpoint(fitted):
    X, y = default_rows()
    A = np.column_stack([np.ones(len(X)), X, y])
    factor = fitted.last["factor"].numpy()
    np.testing.assert_allclose(factor.T @ factor, A.T @ A, rtol=1e-12)


def test_resumed_run_knows_it_too(fitted, tmp_path):
    flags = ("--ckpt_path", fitted.run / "checkpoints/last.ckpt", "--trainer.max_epochs", 4)
    config = {"scratch": SCRATCH, "concise": CONCISE}[fitted.report["model"]]
    assert_shown_against(in_process(tmp_path, "fit", "--config", config, *flags).succeeded(), ols(*default_rows()))
