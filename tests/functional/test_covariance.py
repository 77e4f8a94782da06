"""Covariances under errors of unequal variance, against statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linreg_pl.functional.covariance import ScoreSums
from linreg_pl.functional.factors import shifted_factor, triangular_factor, unshifted
from linreg_pl.functional.inference import Inference
from linreg_pl.functional.least_squares import solve
from linreg_pl.functional.whitening import WhitenedBlock, Whitening

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # within statsmodels
KINDS = ("HC0", "HC1", "HC2", "HC3")


def table(seed, n, columns, weighted, means=5.0):
    """A random table whose errors grow with the first column."""
    random = np.random.default_rng(seed)
    X = means * random.normal(size=columns) + random.normal(size=(n, columns)) * random.uniform(0.1, 3, size=columns)
    y = X @ random.normal(size=columns) + random.normal(size=n) * (0.1 + np.abs(X[:, 0] - X[:, 0].mean()))
    return X, y, random.uniform(0.2, 4, size=n) if weighted else None, random


def inferred(X, y, weight, bias, kind, keys=(), parts=3):
    """Inference from the table in some parts."""
    tensors = [torch.from_numpy(X), torch.from_numpy(y[:, None])]
    tensors += [] if weight is None else [torch.from_numpy(weight[:, None])]
    factor = shifted_factor(*tensors)
    solution = solve(unshifted(factor), bias)
    solution = solution._replace(num_rows=len(y))  # weights need not be 1 on average
    whitening, sums = Whitening(solution, factor), []
    keys = [torch.from_numpy(key.astype(np.int64)) for key in keys]
    for part in range(parts):
        some = slice(part, None, parts)
        block, found = (
            WhitenedBlock(whitening, *(x[some] for x in tensors)),
            ScoreSums(kind, len(solution.theta), len(keys)),
        )
        for rows, q in block:
            found.add(block, rows, q, [key[some] for key in keys])
        sums.append(found)
    for other in sums[1:]:
        sums[0].merge(other)
    return Inference(solution, covariance=sums[0].covariance(whitening, [str(i) for i in range(len(keys))]))


def expected(X, y, weight, bias, **options):
    A = sm.add_constant(X) if bias else X
    return (sm.OLS(y, A) if weight is None else sm.WLS(y, A, weights=weight)).fit(use_t=True, **options)


def check(ours, theirs):
    root = ours.covariance_root
    scale = np.outer(theirs.bse, theirs.bse)
    np.testing.assert_allclose((root @ root.mT) / scale, theirs.cov_params() / scale, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.standard_errors, theirs.bse, rtol=1e-8)
    np.testing.assert_allclose(ours.p, theirs.pvalues, rtol=1e-6, atol=1e-300)
    np.testing.assert_allclose(ours.f, np.squeeze(theirs.fvalue), rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(8, 200), st.integers(1, 5), st.booleans(), st.booleans())
def test_as_statsmodels(kind, seed, n, columns, weighted, bias):
    X, y, weight, _ = table(seed, n, columns, weighted)
    check(inferred(X, y, weight, bias, kind), expected(X, y, weight, bias, cov_type=kind))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(50, 300), st.booleans(), st.booleans())
def test_clusters_as_statsmodels(seed, n, weighted, bias):
    X, y, weight, random = table(seed, n, 2, weighted)
    keys = random.integers(0, 12, size=n)
    theirs = expected(X, y, weight, bias, cov_type="cluster", cov_kwds={"groups": keys})
    check(inferred(X, y, weight, bias, "cluster", [keys]), theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_two_way_clusters_as_statsmodels(seed, weighted, bias):
    X, y, weight, random = table(seed, 400, 2, weighted)
    firm, year = random.integers(0, 25, size=400), random.integers(0, 9, size=400)
    y = y + random.normal(size=25)[firm] + random.normal(size=9)[year]
    theirs = expected(X, y, weight, bias, cov_type="cluster", cov_kwds={"groups": np.column_stack([firm, year])})
    ours = inferred(X, y, weight, bias, "cluster", [firm, year])
    check(ours, theirs)
    assert (ours.test_dof, ours.covariance.clusters) == (8, {"0": 25, "1": 9})


def test_negative_eigenvalues_are_mended():
    X, y, _, _ = table(3, 30, 3, weighted=False)
    ours = inferred(X, y, None, True, "cluster", [np.arange(30) % 5, np.arange(30) % 3])
    assert ours.covariance.mended
    assert torch.linalg.eigvalsh(ours.covariance_root @ ours.covariance_root.mT)[0] > -1e-12


def test_a_row_that_alone_tells_a_coefficient_has_no_hc3():
    X, y, _, _ = table(0, 20, 1, weighted=False)
    X = np.column_stack([X, np.arange(20) == 7])
    assert inferred(X, y, None, True, "HC3").standard_errors.isnan().all()
    np.testing.assert_allclose(
        inferred(X, y, None, True, "HC1").standard_errors[:2], expected(X, y, None, True, cov_type="HC1").bse[:2]
    )


@pytest.mark.parametrize("mean", [1e4, 1e8, 1e12])
def test_columns_far_from_zero_keep_their_digits(mean):
    X, y, _, _ = table(1, 500, 2, weighted=False, means=0)
    X, moved = np.round(X * 2**10) / 2**10, np.round(X * 2**10) / 2**10 + mean  # the same deviations, exactly
    near, far = (inferred(columns, y, None, True, "HC3").standard_errors[1:] for columns in (X, moved))
    np.testing.assert_allclose(far, near, rtol=1e-9)


def test_size_of_a_nominal_5_percent_test():
    """Where errors grow with x², the classical test rejects a true hypothesis far too often, HC3 hardly."""
    random, runs = np.random.default_rng(0), 400
    rejected = {"classical": 0, "HC3": 0}
    for _ in range(runs):
        x = random.normal(size=(60, 1))
        y = random.normal(size=60) * x[:, 0] ** 2
        rejected["HC3"] += int(inferred(x, y, None, True, "HC3").p[1] < 0.05)
        solution = solve(triangular_factor(torch.from_numpy(x), torch.from_numpy(y[:, None])))
        rejected["classical"] += int(Inference(solution).p[1] < 0.05)
    assert rejected["classical"] > 0.3 * runs
    assert rejected["HC3"] < 0.13 * runs
