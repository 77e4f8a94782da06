import math

import numpy as np
import pytest
import torch

from linreg_pl.data.perturbed import Perturbed
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.errors import InputError

N = 20_000
FIVE_SIGMA = 5 / math.sqrt(N)
WEIGHT, BIAS = np.array([2, -3.4]), 4.2


def drawn(part="train", **arguments):
    return [tensor.double().numpy() for tensor in Perturbed(num_train=N, num_val=N, **arguments).raw(part)]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_unperturbed_rows_are_those_of_synthetic(part):
    for mine, theirs in zip(Perturbed().raw(part), Synthetic().raw(part), strict=True):
        assert torch.equal(mine, theirs)


def test_laplace_noise_has_the_standard_deviation_asked_for_and_its_own_shape():
    X, y = drawn(noise="laplace", noise_std=0.5)
    noise = (y[:, 0] - X @ WEIGHT - BIAS) / 0.5
    assert noise.mean() == pytest.approx(0, abs=FIVE_SIGMA)
    assert noise.var() == pytest.approx(1, abs=FIVE_SIGMA * math.sqrt(5))
    assert np.abs(noise).mean() == pytest.approx(1 / math.sqrt(2), abs=FIVE_SIGMA)
    assert (noise**4).mean() == pytest.approx(6, abs=1.5)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_features_are_correlated_as_asked(correlation):
    X, _ = drawn(true_weight=[1, 2, 3], correlation=correlation)
    expected = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    np.testing.assert_allclose(np.cov(X, rowvar=False), expected, atol=FIVE_SIGMA * math.sqrt(2))


def test_features_of_correlation_1_are_one():
    X, _ = drawn(true_weight=[1, 2, 3], correlation=1)
    assert np.linalg.matrix_rank(X) == 1


def test_feature_noise_is_not_in_the_target():
    (X, y), (clean, same) = drawn(feature_noise=0.5), drawn()
    assert np.array_equal(y, same)
    added = (X - clean) / 0.5
    np.testing.assert_allclose(np.cov(added, clean, rowvar=False), np.eye(4), atol=FIVE_SIGMA * math.sqrt(2))


def test_outliers_are_in_the_training_rows_alone():
    _, y = drawn(outliers=3)
    assert (y[:3] == 10_000).all()
    assert np.array_equal(y[3:], drawn()[1][3:])
    assert np.array_equal(drawn("val", outliers=3)[1], drawn("val")[1])


def test_malicious_order_is_by_noise():
    X, y = drawn(order="malicious", noise_std=1)
    noise = y[:, 0] - X @ WEIGHT - BIAS
    assert (np.diff(noise) > -1e-5).all()
    assert sorted(y[:, 0]) == sorted(drawn(noise_std=1)[1][:, 0])


@pytest.mark.parametrize("order", ["drawn", "malicious"])
def test_rows_in_order_stay_in_order(order):
    data = Perturbed(order=order)
    for _ in range(2):  # in each epoch
        batches = [batch.X for batch in data.train_dataloader()]
        assert torch.equal(torch.cat(batches), data.raw("train")[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"correlation": 1.5}, "--data.correlation 1.5: must lie between 0 and 1"),
        ({"correlation": math.nan}, "--data.correlation nan: must lie between 0 and 1"),
        ({"feature_noise": -1}, "--data.feature_noise -1: must be zero or a positive number"),
        ({"outliers": -1}, "--data.outliers -1: must be zero or a positive number"),
        ({"noise_std": -1}, "--data.noise_std -1: must be zero or a positive number"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, sentence):
    with pytest.raises(InputError) as error:
        Perturbed(**arguments)
    assert str(error.value) == sentence
