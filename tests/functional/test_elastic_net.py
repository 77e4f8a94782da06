"""Elastic-net paths and their cross-validation, against scikit-learn and from the data themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Ridge
from sklearn.preprocessing import StandardScaler

from linreg_pl.functional.elastic_net import CrossValidation, Problem, cross_validate
from linreg_pl.functional.factors import shifted_factor

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")
RATIOS = (1.0, 0.5, 0.05, 0.0)


def table(seed, n, P, weighted=False):
    """A random table, some of whose columns are nearly alike and some of whose weights are zero."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, P)) * random.uniform(0.1, 5, size=P) + 10 * random.normal(size=P)
    X[:, -1] += 3 * X[:, 0]
    weights = np.where(random.random(P) < 0.5, random.normal(size=P), 0)
    y = X @ weights + 2 * random.normal(size=n)
    sample_weight = random.uniform(0.2, 3, size=n) if weighted else np.ones(n)
    return X, y, sample_weight / sample_weight.mean()


def factor(X, y, weight):
    return shifted_factor(torch.from_numpy(X), torch.from_numpy(y[:, None]), torch.from_numpy(weight[:, None]))


def solved(X, y, weight, penalties, l1_ratio, bias, standardize, nonnegative=False, largest_gap=1e-13):
    problem = Problem(factor(X, y, weight), bias, standardize)
    penalties = torch.as_tensor(penalties, dtype=torch.float64)
    v = problem.path(penalties, l1_ratio, nonnegative)
    assert problem.gaps(v, penalties, l1_ratio, nonnegative).max() < largest_gap
    return tuple(part.numpy() for part in problem.coefficients(v))


def peer(X, y, weight, penalty, l1_ratio, bias, standardize, nonnegative=False):
    """Coefficients of scikit-learn for raw columns."""
    scaler = StandardScaler().fit(X, sample_weight=weight)
    mean, scale = (scaler.mean_, scaler.scale_) if standardize else (np.zeros(X.shape[1]), np.ones(X.shape[1]))
    if l1_ratio == 0 and not nonnegative:
        model = Ridge(penalty * weight.sum(), fit_intercept=bias, solver="cholesky")
    else:
        options = {"tol": 1e-14, "max_iter": 10**6, "positive": nonnegative}
        model = ElasticNet(alpha=penalty, l1_ratio=l1_ratio, fit_intercept=bias, **options)
    model.fit((X - mean) / scale, y, sample_weight=weight)
    coef = model.coef_ / scale
    return coef, model.intercept_ - mean @ coef, model.coef_ != 0


def assert_alike(ours, theirs, X, y):
    coef, intercept, left = theirs
    np.testing.assert_allclose(ours[0] * X.std(axis=0), coef * X.std(axis=0), rtol=0, atol=1e-6 * y.std())
    np.testing.assert_allclose(ours[1], intercept, rtol=0, atol=1e-6 * max(y.std(), abs(intercept)))
    np.testing.assert_array_equal(ours[0] != 0, left)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("bias", "standardize"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("source", [0, 1, 2, "diabetes"])
def test_as_scikit_learn(source, l1_ratio, bias, standardize, weighted):
    if source == "diabetes":
        X, y = load_diabetes(return_X_y=True, scaled=False)
        weight = np.random.default_rng(0).uniform(0.5, 1.5, size=len(y)) if weighted else np.ones(len(y))
        weight /= weight.mean()
    else:
        X, y, weight = table(source, *((200, 8), (60, 25), (30, 6))[source], weighted)
    problem = Problem(factor(X, y, weight), bias, standardize)
    penalties = problem.penalties(l1_ratio, 30)[[3, 12, 20, 29]]
    ours = solved(X, y, weight, penalties, l1_ratio, bias, standardize)
    for place, penalty in enumerate(penalties.tolist()):
        theirs = peer(X, y, weight, penalty, l1_ratio, bias, standardize)
        assert_alike([part[place] for part in ours], theirs, X, y)


def test_nonnegative_as_scikit_learn():
    X, y, weight = table(3, 100, 8)
    for l1_ratio in RATIOS[:3]:
        ours = solved(X, y, weight, [1.0, 0.1, 0.01], l1_ratio, True, True, nonnegative=True)
        assert (ours[0] >= 0).all()
        for place, penalty in enumerate((1.0, 0.1, 0.01)):
            assert_alike([part[place] for part in ours], peer(X, y, weight, penalty, l1_ratio, True, True, True), X, y)
    ridge = solved(X, y, weight, [0.1], 0.0, True, True, nonnegative=True)
    assert (ridge[0] >= 0).all()
    assert (ridge[0] > 0).any()


@settings(max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(2, 80), st.integers(1, 30), st.sampled_from(RATIOS), st.booleans(), st.booleans()
)
def test_conditions_of_optimality(seed, n, P, l1_ratio, weighted, nonnegative):
    """From the rows: the gradient is that of the penalty where a weight is not zero, and within it elsewhere."""
    X, y, weight = table(seed, n, P, weighted)
    if P > 3:
        X[:, 1], X[:, 2] = X[:, 0], 7.0  # a column twice, and one that is constant
    problem = Problem(factor(X, y, weight), True, True)
    penalties = problem.penalties(l1_ratio, 12)
    w, b = solved(X, y, weight, penalties, l1_ratio, True, True, nonnegative)
    away = X - np.average(X, axis=0, weights=weight)
    scale = np.sqrt(np.average(away**2, axis=0, weights=weight))
    moves = scale > 1e-12 * np.abs(X).max(axis=0)
    Z = away[:, moves] / scale[moves]
    assert (w[:, ~moves] == 0).all()
    for penalty, row, intercept in zip(penalties.tolist(), w, b, strict=True):
        v = row[moves] * scale[moves]
        residual = y - X @ row - intercept
        pull = Z.T @ (weight * residual) / n - penalty * (1 - l1_ratio) * v
        limit, rounding = penalty * l1_ratio, 1e-9 * max(np.abs(Z.T @ (weight * y)).max() / n, 1)
        assert abs(weight @ residual) < 1e-8 * n * max(np.abs(y).max(), 1)
        np.testing.assert_allclose(pull[v != 0], (np.sign(v) * limit)[v != 0], rtol=0, atol=rounding)
        others = pull[v == 0] if nonnegative else np.abs(pull[v == 0])
        assert (others <= limit + rounding).all()


def brute_force(X, y, weight, folds, penalties, l1_ratio, standardize):
    """Errors of scikit-learn on each fold left out, ``(K, L)``, and the weights of the folds."""
    errors, sizes = [], []
    for fold in np.unique(folds):
        out = folds == fold
        fits = [peer(X[~out], y[~out], weight[~out], p, l1_ratio, True, standardize)[:2] for p in penalties]
        squares = [(weight[out] * (y[out] - X[out] @ coef - intercept) ** 2).sum() for coef, intercept in fits]
        sizes.append(weight[out].sum())
        errors.append(np.array(squares) / sizes[-1])
    return np.array(errors), np.array(sizes)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l1_ratio", RATIOS)
def test_cross_validation_is_brute_force_on_the_same_folds(l1_ratio, weighted, standardize):
    X, y, weight = table(5, 150, 6, weighted)
    folds = np.random.default_rng(1).integers(0, 5, size=150)
    penalties = Problem(factor(X, y, weight), True, standardize).penalties(l1_ratio, 20)[::4]
    factors = torch.stack([factor(X[folds == k], y[folds == k], weight[folds == k]) for k in range(6)])  # one is empty
    ours = cross_validate(factors, penalties, l1_ratio, True, standardize)
    each, sizes = brute_force(X, y, weight, folds, penalties.tolist(), l1_ratio, standardize)
    mse = np.average(each, axis=0, weights=sizes)
    np.testing.assert_allclose(ours.mse, mse, rtol=1e-9)
    se = np.sqrt(np.average((each - mse) ** 2, axis=0, weights=sizes) / 4)
    np.testing.assert_allclose(ours.se, se, rtol=1e-7)
    assert ours.num_folds == 5


def test_rules():
    mse, se = torch.tensor([9.0, 5.0, 3.4, 3.0, 3.1]), torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5])
    found = CrossValidation(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), mse, se, 10)
    assert (found.choose("min"), found.choose("1se")) == (3, 2)


@pytest.mark.parametrize("l1_ratio", RATIOS)
def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(l1_ratio):
    X, y, weight = table(6, 80, 5)
    problem = Problem(factor(X, y, weight), True, True)
    penalty = problem.penalties(l1_ratio, 10)[5:6]
    v = problem.path(penalty, l1_ratio)[0]
    Z = StandardScaler().fit_transform(X)[:, v.numpy() != 0]
    l2 = float(penalty) * (1 - l1_ratio)
    hat = Z @ np.linalg.solve(Z.T @ Z + 80 * l2 * np.eye(Z.shape[1]), Z.T)
    assert problem.degrees_of_freedom(v, l2) == pytest.approx(1 + np.trace(hat), rel=1e-9)


def test_columns_far_from_zero_keep_their_digits():
    X, y, weight = table(7, 300, 4)
    X = np.round((X - X.mean(axis=0)) * 2**10) / 2**10
    penalties = Problem(factor(X, y, weight), True, True).penalties(0.5, 10)
    near, far = (solved(columns, y, weight, penalties, 0.5, True, True)[0] for columns in (X, X + 1e9))
    np.testing.assert_allclose(far, near, rtol=1e-7, atol=1e-9)


def test_a_target_without_variation():
    X, _, weight = table(8, 40, 3)
    problem = Problem(factor(X, np.full(40, 3.0), weight), True, True)
    penalties = problem.penalties(1.0, 5)
    w, b = solved(X, np.full(40, 3.0), weight, penalties, 1.0, True, True)
    assert (np.abs(w) < 1e-12).all()
    np.testing.assert_allclose(b, 3.0, rtol=1e-12)


@pytest.mark.parametrize("l1_ratio", RATIOS)
@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_of_columns_do_not_matter_where_the_penalty_does_not_see_them(unit, l1_ratio):
    X, y, weight = table(9, 300, 4)
    plain = solved(X, y, weight, [0.0], l1_ratio, True, False)[0][0]
    scaled = solved(X * [1, unit, 1, 1], y, weight, [0.0], l1_ratio, True, False)[0][0] * [1, unit, 1, 1]
    np.testing.assert_allclose(scaled, plain, rtol=1e-8)
    standardised = solved(X * [1, unit, 1, 1], y, weight, [0.1], l1_ratio, True, True)[0][0] * [1, unit, 1, 1]
    np.testing.assert_allclose(standardised, solved(X, y, weight, [0.1], l1_ratio, True, True)[0][0], rtol=1e-8)


def test_columns_of_other_units_as_scikit_learn():
    X, y, weight = table(9, 300, 4)
    X = X * [1, 1e10, 1, 1]
    ours = solved(X, y, weight, [1e-3], 1.0, True, False, largest_gap=1e-6)  # of rounding, in the slope of that column
    assert_alike([part[0] for part in ours], peer(X, y, weight, 1e-3, 1.0, True, False), X, y)


def test_no_penalty_and_more_columns_than_rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(100, 150)).cumsum(axis=1)
    y = X[:, 3] + random.normal(size=100)
    w, b = solved(X, y, np.ones(100), [1.0, 0.0], 1.0, True, False)
    np.testing.assert_allclose(X @ w[1] + b[1], y, atol=1e-6)
