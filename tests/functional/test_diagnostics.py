"""What residuals look like, against statsmodels and scipy."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.stattools import durbin_watson, jarque_bera

from linreg_pl.functional.diagnostics import BINS, NUM_INFLUENTIAL, REACH, Diagnostics
from linreg_pl.functional.factors import shifted_factor, unshifted
from linreg_pl.functional.least_squares import solve
from linreg_pl.functional.whitening import WhitenedBlock, Whitening
from tests.functional.test_covariance import table

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # within statsmodels


def diagnosed(X, y, weight, bias, parts=3, keep=True):
    """Diagnostics of a table in some parts, that come in another order."""
    tensors = [torch.from_numpy(X), torch.from_numpy(y[:, None])]
    tensors += [] if weight is None else [torch.from_numpy(weight[:, None])]
    factor = shifted_factor(*tensors)
    whitening = Whitening(solve(unshifted(factor), bias)._replace(num_rows=len(y)), factor)
    total = Diagnostics(whitening, keep)
    for rows in reversed(torch.arange(len(y)).tensor_split(parts)):
        block, found = WhitenedBlock(whitening, *(tensor[rows] for tensor in tensors)), Diagnostics(whitening, keep)
        for some, q in block:
            found.add(block, some, q)
        found.end(block, rows)
        total.merge(found)
    return total.result()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "columns", "seed"), [(12, 2, 0), (300, 4, 1), (30_000, 3, 2)])
def test_as_statsmodels(n, columns, seed, bias, weighted):
    X, y, weight, _ = table(seed, n, columns, weighted)
    ours = diagnosed(X, y, weight, bias)
    A = sm.add_constant(X) if bias else X
    root = np.ones(n) if weight is None else np.sqrt(weight)
    theirs = sm.OLS(y * root, A * root[:, None]).fit()
    residual = theirs.resid
    close = {"rtol": 1e-8}
    np.testing.assert_allclose(ours["durbin_watson"], durbin_watson(residual), **close)
    np.testing.assert_allclose(list(ours["jarque_bera"].values()), jarque_bera(residual), **close)
    test = het_breuschpagan(residual, sm.add_constant(X))[:2]
    np.testing.assert_allclose(list(ours["breusch_pagan"].values()), test, **close)
    quartiles = np.quantile(residual, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(list(ours["residuals"].values()), quartiles, rtol=1e-8, atol=1e-8 * residual.std())
    influence, rows = theirs.get_influence(), [row["row"] for row in ours["influential"]]
    cook = influence.cooks_distance[0]
    assert sorted(rows) == sorted(np.argsort(-cook)[: min(NUM_INFLUENTIAL, n)])
    np.testing.assert_allclose([row["cook"] for row in ours["influential"]], cook[rows], **close)
    np.testing.assert_allclose(
        [row["leverage"] for row in ours["influential"]], influence.hat_matrix_diag[rows], **close
    )
    if n < 1000:  # statsmodels fits once for each row left out
        studentized = influence.resid_studentized_external[rows]
        np.testing.assert_allclose([row["studentized"] for row in ours["influential"]], studentized, rtol=1e-7)


@pytest.mark.parametrize("noise", [stats.norm, stats.cauchy, stats.expon, stats.bernoulli(0.1)])
def test_quartiles_of_many_rows_are_within_the_error_they_state(noise):
    """Also where a few rows are so far away that all others lie in a few of the bins."""
    random, n = np.random.default_rng(0), 20_000
    X = random.normal(size=(n, 2))
    y = X @ [1.0, 2.0] + noise.rvs(size=n, random_state=random)
    exact, binned = (diagnosed(X, y, None, True, keep=keep)["residuals"] for keep in (True, False))
    spread = np.std(y - sm.OLS(y, sm.add_constant(X)).fit().fittedvalues)
    error = binned.pop("error")
    np.testing.assert_allclose(error, REACH * spread / BINS, rtol=1e-9)
    for name, value in exact.items():
        assert abs(binned[name] - value) <= error * (1 + 1e-9)


def test_a_row_that_alone_tells_a_coefficient_comes_first():
    X, y, _, _ = table(0, 20, 1, weighted=False)
    found = diagnosed(np.column_stack([X, np.arange(20) == 7]), y, None, True)["influential"]
    assert (found[0]["row"], found[0]["cook"]) == (7, np.inf)
    assert all(np.isfinite(row["cook"]) for row in found[1:])


def test_columns_far_from_zero_keep_their_digits():
    X, y, _, _ = table(1, 500, 2, weighted=False, means=0)
    X = np.round(X * 2**10) / 2**10
    near, far = (diagnosed(columns, y, None, True) for columns in (X, X + 1e9))  # the same deviations, exactly
    assert near.keys() == far.keys()
    for name in ("jarque_bera", "breusch_pagan", "residuals"):
        np.testing.assert_allclose(list(far[name].values()), list(near[name].values()), rtol=1e-7)
    for one, other in zip(near["influential"], far["influential"], strict=True):
        np.testing.assert_allclose(list(other.values()), list(one.values()), rtol=1e-7)
