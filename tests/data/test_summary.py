"""What is known of the training rows by their triangular factor, against numpy and statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch

from linreg_pl.data.summary import TrainingSummary
from linreg_pl.errors import InputError
from linreg_pl.functional.factors import triangular_factor


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    X = random.normal([5.0, -3e4], [2.0, 1e3], size=(60, 2))
    return X, X @ [1.5, -2e-3] + 7 + random.normal(size=60)


def summary_of(X, y, names=()):
    summary = TrainingSummary()
    summary.set_factor(triangular_factor(torch.tensor(X), torch.tensor(y).reshape(-1, 1)), names)
    return summary


def test_without_a_factor_nothing_is_known():
    summary = TrainingSummary()
    for bias in (True, False):
        assert (summary.factor, summary.optimum(bias), summary.inference(bias), summary.noise_floor(bias)) == (
            None,
        ) * 4


@pytest.mark.parametrize("bias", [True, False])
def test_optimum_and_inference_are_those_of_statsmodels(rows, bias):
    X, y = rows
    theirs = sm.OLS(y, sm.add_constant(X) if bias else X, hasconst=bias).fit()
    summary = summary_of(X, y)
    optimum, inference = summary.optimum(bias), summary.inference(bias, level=0.9)
    np.testing.assert_allclose([*[optimum.bias] * bias, *optimum.weight], theirs.params, rtol=1e-9)
    np.testing.assert_allclose(inference.standard_errors, theirs.bse, rtol=1e-9)
    np.testing.assert_allclose(np.transpose(inference.confidence_intervals), theirs.conf_int(0.1), rtol=1e-9)
    assert summary.noise_floor(bias) == pytest.approx(theirs.mse_resid, rel=1e-9)


def test_dependent_columns_have_no_optimum(rows):
    X, y = rows
    summary = summary_of(np.column_stack([X, X[:, 0] - X[:, 1]]), y)
    assert (summary.optimum(True), summary.inference(True), summary.noise_floor(True)) == (None,) * 3


def test_as_many_rows_as_coefficients_have_an_optimum_without_errors(rows):
    X, y = rows
    summary = summary_of(X[:3], y[:3])
    assert summary.optimum(True) is not None
    assert (summary.inference(True), summary.noise_floor(True)) == (None, None)


def test_another_factor_has_another_optimum(rows):
    X, y = rows
    summary = summary_of(X, y)
    first = summary.optimum(True).weight
    summary.set_factor(summary_of(X, 2 * y).factor)
    np.testing.assert_allclose(summary.optimum(True).weight, 2 * first, rtol=1e-9)
    summary.set_factor(None)
    assert (summary.factor, summary.optimum(True)) == (None, None)


def test_scaling_is_that_of_the_columns(rows):
    X, y = rows
    scaling = summary_of(X, y).scaling(["a", "b"])
    np.testing.assert_allclose(scaling.mean, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaling.scale, X.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1, -1e6 / 3])
def test_column_of_one_value_cannot_be_standardised(rows, value):
    X, y = rows
    summary = summary_of(np.column_stack([X[:, 0], np.full(len(X), value)]), y)
    with pytest.raises(InputError) as error:
        summary.scaling(["a", "b"])
    assert str(error.value) == (
        "column 'b' has one value only, so it cannot be standardised: leave it out of --data.features"
    )


@pytest.mark.parametrize(
    ("column", "scale", "what"),
    [(0, 1e155, "'a': its values are too large"), (2, 1e-160, "'y': its values are too small")],
)
def test_values_that_cannot_be_squared_are_refused(rows, column, scale, what):
    X, y = rows
    columns = np.column_stack([X, y])
    columns[:, column] *= scale
    with pytest.raises(InputError) as error:
        summary_of(columns[:, :2], columns[:, 2], ["a", "b", "y"])
    assert str(error.value) == f"column {what} to be squared in float64; rescale the column"


def test_a_column_of_zeros_can_be_squared(rows):
    X, y = rows
    assert summary_of(0 * X, y, ["a", "b", "y"]).factor is not None
