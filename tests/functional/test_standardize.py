import functools

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from linreg_pl.functional.standardize import column_moments, merge, standardize, summarize, to_own_units


@pytest.fixture
def X():  # noqa: N802
    return np.random.default_rng(0).normal([5.0, -3e4, 1e-3], [2.0, 1e3, 1e-4], size=(50, 3))


def test_columns_are_those_of_the_standard_scaler(X):
    mean, scale = column_moments(merge(summarize(torch.tensor(X[:7])), summarize(torch.tensor(X[7:]))))
    reference = StandardScaler().fit(X)
    np.testing.assert_allclose(mean, reference.mean_, rtol=1e-12)
    np.testing.assert_allclose(scale, reference.scale_, rtol=1e-12)
    np.testing.assert_allclose(standardize(torch.tensor(X), mean, scale), reference.transform(X), atol=1e-12)


def test_float32_columns_are_handled_in_float64():
    X = torch.tensor([[16777216.0], [16777218.0]])  # float32 would take their mean to be 16777216
    mean, scale = column_moments(summarize(X))
    assert (mean.dtype, mean.item(), scale.item()) == (torch.float64, 16777217.0, 1.0)
    assert standardize(X, mean, scale).reshape(-1).tolist() == [-1.0, 1.0]


def test_coefficients_in_own_units_are_those_of_a_fit_in_own_units(X):
    y = X @ [1.5, -2e-3, 400.0] + 7 + np.random.default_rng(1).normal(size=50)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    fit = fit_line((X - mean) / scale, y)
    weight, bias = to_own_units(*map(torch.tensor, (fit[:-1], fit[-1], mean, scale)))
    np.testing.assert_allclose([*weight, bias], fit_line(X, y), rtol=1e-9)


def fit_line(X, y):
    """Weights, then bias."""
    return np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y)[0]


def test_predictions_are_the_same_in_both_units(X):
    mean, scale = column_moments(summarize(torch.tensor(X)))
    w, b = torch.tensor([0.3, -0.2, 5.0]), torch.tensor(1.25)
    weight, bias = to_own_units(w, b, mean, scale)
    assert (weight.dtype, bias.dtype, weight.shape, bias.shape) == (torch.float64, torch.float64, (3,), ())
    by_hand = ((X - X.mean(axis=0)) / X.std(axis=0)) @ w.double().numpy() + 1.25
    np.testing.assert_allclose(X @ weight.numpy() + bias.item(), by_hand, rtol=1e-9)


def test_large_means_do_not_drown_the_deviations():
    X = 1e9 + np.random.default_rng(2).normal(size=(1000, 1))
    blocks = [summarize(block) for block in torch.tensor(X).split(37)]
    mean, scale = column_moments(functools.reduce(merge, [summarize(torch.empty(0, 1)), *blocks]))
    np.testing.assert_allclose([mean.item(), scale.item()], [X.mean(), X.std()], rtol=1e-7)
