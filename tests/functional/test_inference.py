import functools

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from statsmodels.stats.outliers_influence import variance_inflation_factor

from linreg_pl.functional.factors import triangular_factor
from linreg_pl.functional.inference import Inference, infer, noise_floor
from linreg_pl.functional.least_squares import condition_number, solve

# Longley's condition number of 5e9 would allow only seven digits if it did not come from the columns' units;
# by its own, scaled columns it allows the same 1e-9 as the others. Star98's is 3e6.
TABLES = ("longley", "stackloss", "ccard", "spector", "fair", "star98")
EXACT = 1e-9


@functools.cache
def table(name):
    """Features and target of a real table that statsmodels carries."""
    data = getattr(sm.datasets, name).load_pandas()
    y = data.endog.iloc[:, 0] if data.endog.ndim == 2 else data.endog  # star98 counts in two columns
    return np.array(data.exog, dtype=np.float64), np.array(y, dtype=np.float64)


def fit(X, y, bias=True, ridge=0.0):
    return solve(triangular_factor(torch.from_numpy(X), torch.from_numpy(y).reshape(-1, 1)), bias, ridge)


def design(X, bias):
    return sm.add_constant(X, has_constant="add") if bias else X


def assert_equal(actual, expected, rtol=EXACT):
    np.testing.assert_allclose(actual, expected, rtol=rtol)


@pytest.fixture(params=[(name, bias) for name in TABLES for bias in (True, False)], ids=str)
def both(request):
    """The same fit here and in statsmodels."""
    name, bias = request.param
    X, y = table(name)
    return Inference(fit(X, y, bias)), sm.OLS(y, design(X, bias), hasconst=bias).fit()


def test_coefficients_and_their_errors(both):
    ours, theirs = both
    assert_equal(ours.solution.theta, theirs.params)
    assert_equal(ours.standard_errors, theirs.bse)
    assert_equal(ours.t, theirs.tvalues)
    assert_equal(ours.p, theirs.pvalues)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_confidence_intervals(both, level):
    ours, theirs = both
    bounds = Inference(ours.solution, level).confidence_intervals
    assert_equal(torch.stack(bounds, dim=1), theirs.conf_int(1 - level))


def test_quality_of_the_fit(both):
    ours, theirs = both
    assert ours.dof == theirs.df_resid
    assert_equal(ours.residual_sum_of_squares, theirs.ssr)
    assert_equal(ours.residual_variance, theirs.mse_resid)
    assert_equal(ours.residual_std, theirs.mse_resid**0.5)
    assert_equal(noise_floor(ours.solution), theirs.mse_resid)
    assert_equal(ours.r2, theirs.rsquared)
    assert_equal(ours.adjusted_r2, theirs.rsquared_adj)
    assert_equal(ours.explained_sum_of_squares, theirs.ess)
    assert_equal(ours.total_sum_of_squares, theirs.centered_tss if ours.solution.has_bias else theirs.uncentered_tss)


def test_f_and_information_criteria(both):
    ours, theirs = both
    assert_equal(ours.f, theirs.fvalue)
    assert_equal(ours.f_p, theirs.f_pvalue)
    assert_equal(ours.log_likelihood, theirs.llf)
    assert_equal(ours.aic, theirs.aic)
    assert_equal(ours.bic, theirs.bic)


def test_condition_number(both):
    ours, theirs = both
    assert_equal(condition_number(ours.solution.factor), theirs.condition_number)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_prediction_intervals_of_new_rows(both, level):
    ours, theirs = both
    ours = Inference(ours.solution, level)
    bias = ours.solution.has_bias
    observed = theirs.model.exog[:, int(bias) :]
    X = np.concatenate([observed[:5] * 1.1, observed.mean(axis=0, keepdims=True)])
    expected = theirs.get_prediction(design(X, bias))
    errors = ours.prediction_standard_errors(torch.from_numpy(X))
    assert_equal(errors, expected.se_obs, 1e-8)  # Longley's cancel digits in statsmodels
    if bias:  # at the mean
        assert_equal(errors[-1], ours.residual_std * (1 + 1 / len(observed)) ** 0.5)
    predicted = X @ ours.solution.weight.numpy() + ours.solution.bias.item()
    half = ours.t_quantile * errors.numpy()
    assert_equal(
        np.stack([predicted - half, predicted + half], axis=1), expected.conf_int(obs=True, alpha=1 - level), 2e-9
    )


def test_summary_holds_the_same_numbers(both):
    ours, theirs = both
    expected = {
        "mse": theirs.ssr / theirs.nobs,
        "residual_std": theirs.mse_resid**0.5,
        "dof": theirs.df_resid,
        "r2": theirs.rsquared,
        "adjusted_r2": theirs.rsquared_adj,
        "rank": np.linalg.matrix_rank(theirs.model.exog / np.linalg.norm(theirs.model.exog, axis=0)),
        "condition_number": theirs.condition_number,
        "f": theirs.fvalue,
        "f_p": theirs.f_pvalue,
        "aic": theirs.aic,
        "bic": theirs.bic,
    }
    assert ours.summary() == pytest.approx(expected, rel=EXACT)


def test_float32_rows_to_predict_are_computed_in_float64():
    X, y = table("stackloss")
    inference = Inference(fit(X, y))
    single = inference.prediction_standard_errors(torch.from_numpy(X).float())  # whole numbers
    assert_equal(single, inference.prediction_standard_errors(torch.from_numpy(X)))


def test_tiny_p_values_keep_their_digits():
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 1))
    y = X[:, 0] + 1e-3 * random.normal(size=50)
    ours, theirs = Inference(fit(X, y)), sm.OLS(y, design(X, bias=True)).fit()
    assert 0 < theirs.pvalues[1] < 1e-100
    assert_equal(ours.p, theirs.pvalues)
    assert_equal(ours.f_p, theirs.f_pvalue)


def test_constant_target_has_no_r2_and_no_f():
    X = table("stackloss")[0]
    summary = Inference(fit(X, np.full(len(X), 4.0), bias=False)).summary()
    assert "f" in summary  # without bias the target is not constant about zero
    summary = Inference(fit(X, np.zeros(len(X)))).summary()
    assert summary.keys() == {"mse", "residual_std", "dof", "rank", "condition_number"}
    assert (summary["mse"], summary["rank"]) == (0.0, 4)


def test_as_many_rows_as_coefficients_give_no_inference():
    X, y = table("stackloss")
    solution = fit(X[:4], y[:4])
    assert (infer(solution), noise_floor(solution)) == (None, None)
    with pytest.raises(ValueError, match="4 rows leave no degrees of freedom"):
        Inference(solution)
    assert infer(fit(X[:4], y[:4], bias=False)).dof == 1


def test_penalised_solution_has_no_standard_errors():
    solution = fit(*table("stackloss"), ridge=1.0)
    assert (infer(solution), noise_floor(solution)) == (None, None)
    with pytest.raises(ValueError, match="standard errors are defined only for a fit without penalty"):
        Inference(solution)


def test_no_solution_gives_no_inference():
    assert (infer(None), noise_floor(None)) == (None, None)


@pytest.mark.parametrize("bias", [True, False])
def test_vif_is_that_of_statsmodels(bias):
    random = np.random.default_rng(0)
    X = random.normal(size=(80, 4)) @ random.normal(size=(4, 4)) + 3
    y = X.sum(axis=1, keepdims=True) + random.normal(size=(80, 1))
    found = Inference(solve(triangular_factor(torch.from_numpy(X), torch.from_numpy(y)), bias)).vif
    exog = sm.add_constant(X, prepend=False) if bias else X
    expected = [variance_inflation_factor(exog, column, standardize=False) for column in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
