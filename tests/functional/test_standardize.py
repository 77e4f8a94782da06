import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from linreg_pl.functional.factors import merge_factors, triangular_factor
from linreg_pl.functional.standardize import Scaling, column_scaling


@pytest.fixture
def X():  # noqa: N802
    return np.random.default_rng(0).normal([5.0, -3e4, 1e-3], [2.0, 1e3, 1e-4], size=(50, 3))


def scaling_of(*blocks):
    """Return the scaling of columns that come block by block."""
    blocks = [torch.as_tensor(block) for block in blocks]
    factors = [triangular_factor(block, torch.zeros(len(block), 1)) for block in blocks]
    return column_scaling(merge_factors(torch.stack(factors)))


def test_columns_are_those_of_the_standard_scaler(X):
    scaling = scaling_of(X[:7], X[7:])
    reference = StandardScaler().fit(X)
    np.testing.assert_allclose(scaling.mean, reference.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaling.scale, reference.scale_, rtol=1e-12)
    standardized = scaling.standardize(torch.tensor(X))
    np.testing.assert_allclose(standardized, reference.transform(X), atol=1e-12)
    np.testing.assert_allclose(scaling.invert(standardized), X, rtol=1e-12)


def test_float32_columns_are_handled_in_float64():
    X = torch.tensor([[16777216.0], [16777218.0]])  # in float32, their mean would be 16777216
    scaling = scaling_of(X)
    assert (scaling.mean.dtype, scaling.mean.item()) == (torch.float64, pytest.approx(16777217.0, rel=1e-15))
    torch.testing.assert_close(scaling.standardize(X).flatten(), torch.tensor([-1.0, 1.0]).double(), atol=1e-7, rtol=0)


def fit_line(X, y):
    """Return weights, then bias."""
    return np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y)[0]


def test_unscaled_coefficients_are_those_of_a_fit_to_raw_columns(X):
    y = X @ [1.5, -2e-3, 400.0] + 7 + np.random.default_rng(1).normal(size=50)
    mean, scale = X.mean(axis=0), X.std(axis=0)
    fit = fit_line((X - mean) / scale, y)
    scaling = Scaling(torch.tensor(mean), torch.tensor(scale))
    weight, bias = scaling.unscale_coefficients(torch.tensor(fit[:-1]), torch.tensor(fit[-1]))
    np.testing.assert_allclose([*weight, bias], fit_line(X, y), rtol=1e-9)


def test_predictions_are_the_same_in_both_units(X):
    scaling = scaling_of(X)
    w, b = torch.tensor([0.3, -0.2, 5.0]), torch.tensor(1.25)
    weight, bias = scaling.unscale_coefficients(w, b)
    assert (weight.dtype, bias.dtype, weight.shape, bias.shape) == (torch.float64, torch.float64, (3,), ())
    by_hand = ((X - X.mean(axis=0)) / X.std(axis=0)) @ w.double().numpy() + 1.25
    np.testing.assert_allclose(X @ weight.numpy() + bias.item(), by_hand, rtol=1e-9)


def test_large_means_keep_the_digits_of_the_deviations():
    X = 1e9 + np.random.default_rng(2).normal(size=(1000, 1))
    scaling = scaling_of(np.empty((0, 1)), *np.array_split(X, 27))
    np.testing.assert_allclose([scaling.mean.item(), scaling.scale.item()], [X.mean(), X.std()], rtol=1e-6)
