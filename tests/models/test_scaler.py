"""The layer by which a model takes raw columns."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from linreg_pl.functional.standardize import Scaling
from linreg_pl.models.scaler import Scaler


@pytest.fixture
def X():  # noqa: N802
    return torch.tensor(np.random.default_rng(0).normal([5.0, 1e9], [2.0, 1.0], size=(50, 2)))


@pytest.fixture
def scaling(X):
    return Scaling(X.mean(dim=0), X.std(dim=0, correction=0))


@pytest.fixture
def scaler(scaling):
    scaler = Scaler(2)
    scaler.set(scaling)
    return scaler


def other(scaling):
    """Another scaling of the same columns."""
    return Scaling(scaling.mean + 1, scaling.scale * 2)


def expected(X):
    return torch.tensor(StandardScaler().fit(X.numpy()).transform(X.numpy()))


def assert_close(actual, wanted):
    torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-6)


def test_without_a_scaling_columns_stay_as_they_are(X):
    scaler = Scaler(2)
    assert torch.equal(scaler(X), X)
    assert torch.equal(scaler.complete(X, None), X)
    assert [column.tolist() for column in scaler.scaling] == [[0, 0], [1, 1]]


def test_raw_columns_are_standardised(X, scaler):
    assert_close(scaler(X), expected(X))
    assert_close(scaler.complete(X, None), expected(X))


def test_standardised_columns_stay_as_they_are(X, scaler, scaling):
    Z = scaling.standardize(X).float()
    for known in (scaling, Scaling(*(column.clone() for column in scaling))):  # a copy is as good
        for _ in range(2):
            assert torch.equal(scaler.complete(Z, known), Z)
    assert_close(scaler.complete(X, None), expected(X))  # raw ones still are standardised


def test_columns_of_another_scaling_are_standardised_anew(X, scaler, scaling):
    Z = other(scaling).standardize(X)
    assert_close(scaler.complete(Z, other(scaling)), expected(X))
    assert_close(Scaler(2).complete(Z, other(scaling)), X)


def test_standardised_columns_are_made_raw_for_a_model_of_raw_ones(X, scaler, scaling):
    scaler.set(None)
    assert_close(scaler.complete(scaling.standardize(X), scaling), X)
    assert torch.equal(scaler(X), X)


def test_state_dict_holds_the_scaling_and_nothing_to_learn(X, scaler):
    assert list(scaler.parameters()) == []
    (state,) = scaler.state_dict().values()
    assert (state.shape, state.dtype) == ((2, 2), torch.float64)
    loaded = Scaler(2)
    loaded.load_state_dict(scaler.state_dict())
    assert torch.equal(loaded(X), scaler(X))
    loaded.load_state_dict(Scaler(2).state_dict())
    assert torch.equal(loaded(X), X)


@pytest.mark.parametrize(
    "cast", [torch.nn.Module.half, torch.nn.Module.float, lambda module: module.to(torch.bfloat16)]
)
def test_casting_a_model_leaves_the_digits_of_the_means(X, scaler, cast):
    before = scaler(X)
    cast(scaler)
    assert torch.equal(scaler(X), before)
