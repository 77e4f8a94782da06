"""Digits at any mean, against exact fractions and beside scikit-learn, which centres."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from linreg_pl import LinearRegressor
from linreg_pl.functional.factors import merge_shifted, shifted_factor, triangular_factor, unshifted
from linreg_pl.functional.inference import infer
from linreg_pl.functional.least_squares import solve
from linreg_pl.functional.standardize import column_scaling

MEANS = [1e4, 1e6, 1e8, 1e10, 1e12, 1e14, 1e15]


def exact_weights(X, y):
    """Solve the normal equations in fractions."""
    Z = [[Fraction(1), *(Fraction(value) for value in row)] for row in X.tolist()]
    targets, size = list(map(Fraction, y.tolist())), X.shape[1] + 1
    A = [
        [*(sum(r[i] * r[j] for r in Z) for j in range(size)), sum(r[i] * t for r, t in zip(Z, targets, strict=True))]
        for i in range(size)
    ]
    for i in range(size):
        A[i] = [value / A[i][i] for value in A[i]]
        for k in set(range(size)) - {i}:
            A[k] = [a - A[k][i] * b for a, b in zip(A[k], A[i], strict=True)]
    return np.array([float(row[-1]) for row in A[1:]])


def digits(weights, exact):
    return -np.log10(max(np.abs(np.asarray(weights) / exact - 1).max(), 1e-17))


@pytest.fixture(scope="module", params=MEANS, ids="{:.0e}".format)
def table(request):
    random, mean = np.random.default_rng(0), request.param
    X = mean + random.normal(size=(200, 2))
    y = mean + X @ [2.0, -3.4] + random.normal(size=200)
    return X, y, exact_weights(X, y)


def block(X, y, rows):
    return shifted_factor(torch.from_numpy(X[rows]), torch.from_numpy(y[rows]).reshape(-1, 1))


@pytest.mark.parametrize("cuts", [[], [70], [1, 130]], ids=str)
def test_merged_in_any_parts(table, cuts):
    X, y, exact = table
    parts = [block(X, y, slice(a, b)) for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    found = digits(solve(unshifted(merge_shifted(torch.stack(parts)))).weight, exact)
    assert found >= 13
    assert found >= digits(LinearRegression().fit(X, y).coef_, exact) - 1


def test_through_partial_fit(table):
    X, y, exact = table
    model = LinearRegressor()
    for rows in np.array_split(np.arange(len(y)), 4):
        model.partial_fit(X[rows], y[rows])
    assert digits(model.coef_, exact) >= 13
    assert digits(LinearRegressor().fit(X, y).coef_, exact) >= 13


def test_a_prediction_far_from_zero_has_its_standard_error(table):
    X, y, _ = table
    solution = solve(unshifted(block(X, y, slice(None))))
    near = solve(triangular_factor(torch.from_numpy(X - X[0]), torch.from_numpy(y - y[0]).reshape(-1, 1)))
    ours = infer(solution).prediction_standard_errors(torch.from_numpy(X))
    theirs = infer(near).prediction_standard_errors(torch.from_numpy(X - X[0]))
    np.testing.assert_allclose(ours, theirs, rtol=max(1e-6, 5e-17 * X.mean()))  # the mean itself is rounded


def test_deviations_are_those_of_the_shifted_columns(table):
    X, y, _ = table
    scaling = column_scaling(unshifted(block(X, y, slice(None))))
    np.testing.assert_allclose(scaling.scale, (X - X[0]).std(axis=0), rtol=1e-13)


@pytest.mark.parametrize("mean", [1e4, 1e6, 1e8])
def test_a_block_may_begin_with_an_outlier(mean):
    random = np.random.default_rng(0)
    X = np.vstack([[0.0, 0.0], mean + random.normal(size=(200, 2))])
    y = X @ [2.0, -3.4] + random.normal(size=201)
    lost = np.log10(np.linalg.cond(X - X.mean(axis=0)))
    assert digits(solve(unshifted(block(X, y, slice(None)))).weight, exact_weights(X, y)) > 15 - lost


def test_rows_of_no_table_change_nothing(table):
    X, y, exact = table
    empty = block(X, y, slice(0, 0))
    merged = merge_shifted(torch.stack([empty, block(X, y, slice(None)), empty]))
    assert digits(solve(unshifted(merged)).weight, exact) >= 13


def many_rows(kind):
    """100,000 rows of nine columns of whole numbers, whose sums of products are exact in 64 bits."""
    random, n, P = np.random.default_rng(0), 100_000, 9
    X = random.integers(-1000, 1000, size=(n, P))
    if kind == "alike":
        X[:, 1] = X[:, 0] * 1000 + random.integers(-3, 4, size=n)
    if kind == "far from 0":
        X += 1_000_000
    if kind == "sorted":
        X[:, 0].sort()
    if kind == "outliers":
        X[random.integers(0, n, 3), 2] = 100_000_000
    if kind == "rare level":
        X[:, 3] = 0
        X[random.integers(0, n, 30), 3] = 1
    noise = 1 if kind == "explained" else 1000
    return X, X @ random.integers(1, 6, size=P) + random.integers(-noise, noise + 1, size=n)


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("plain", 12.5),
        ("explained", 12.5),
        ("alike", 9.5),
        ("far from 0", 12.5),
        ("sorted", 12),
        ("outliers", 10.5),
        ("rare level", 12.5),
    ],
)
def test_many_rows_at_once(kind, least):
    X, y = many_rows(kind)
    A = np.column_stack([np.ones(len(X), np.int64), X])
    equations = [[Fraction(int(value)) for value in row] for row in np.column_stack([A.T @ A, A.T @ y])]
    for i in range(len(equations)):
        equations[i] = [value / equations[i][i] for value in equations[i]]
        for k in set(range(len(equations))) - {i}:
            equations[k] = [a - equations[k][i] * b for a, b in zip(equations[k], equations[i], strict=True)]
    exact = np.array([float(row[-1]) for row in equations[1:]])
    factor = block(X.astype(np.float64), y.astype(np.float64), slice(None))
    assert digits(solve(unshifted(factor)).weight, exact) >= least
    fitted = sum(row[-1] * int(product) for row, product in zip(equations, A.T @ y, strict=True))
    assert digits([float(factor[-2, -1]) ** 2], float(int(y.astype(object) @ y) - fitted)) >= least
    in_parts = [block(X.astype(np.float64), y.astype(np.float64), slice(i, i + 9_000)) for i in range(0, len(X), 9_000)]
    assert digits(solve(unshifted(merge_shifted(torch.stack(in_parts)))).weight, exact) >= least - 1


@pytest.mark.parametrize(("alike", "within"), [(1.0, 1e-13), (0.1, 1e-13), (1e-5, 1e-10)])
def test_many_rows_whose_columns_are_alike(alike, within):
    random = np.random.default_rng(0)
    X = random.normal(size=(100_000, 9))
    X[:, 1] = X[:, 0] + alike * X[:, 1]
    y = X @ np.arange(1.0, 10.0) + 1e-3 * random.normal(size=len(X))
    expected = np.linalg.lstsq(np.column_stack([np.ones(len(X)), X]), y)[0][1:]
    np.testing.assert_allclose(solve(unshifted(block(X, y, slice(None)))).weight, expected, rtol=within)
