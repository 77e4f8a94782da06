import math

import numpy as np
import pytest
import torch

from linreg_pl.data.synthetic import Synthetic, synthetic_data
from linreg_pl.errors import InputError

PARTS = ("train", "val", "test")


def drawn(data, part="train"):
    return [tensor.tolist() for tensor in data.raw(part)]


def test_defaults_are_the_notebooks():
    data = Synthetic()
    assert data.truth == ([2.0, -3.4], 4.2)
    assert (data.noise_std, data.batch_size, data.num_rows("train")) == (0.01, 10, 1000)
    assert (data.feature_names, data.target_name, data.num_features) == (["x0", "x1"], "y", 2)
    X, y = data.raw("train")
    assert (X.shape, y.shape, X.dtype, y.dtype) == ((1000, 2), (1000, 1), torch.float32, torch.float32)


def test_data_of_seed_0_are_the_same_on_every_platform():
    X, y = Synthetic().raw("train")
    assert X[:2].tolist() == [[1.851811170578003, -1.5727416276931763], [-2.001805067062378, -1.1746350526809692]]
    assert y[:2].tolist() == [[13.25221061706543], [4.200064182281494]]
    assert Synthetic().raw("val")[1][0].item() == 3.4592831134796143
    assert Synthetic().raw("test")[1][0].item() == 6.515992164611816


def test_seed_alone_decides_the_data():
    torch.manual_seed(1)
    first = drawn(Synthetic(seed=3))
    torch.manual_seed(2)
    assert drawn(Synthetic(seed=3)) == first
    assert drawn(Synthetic(seed=4)) != first


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    drawn(Synthetic())
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_do_not_depend_on_each_other():
    alone = drawn(Synthetic(num_val=0, num_test=7), "train")
    data = Synthetic(num_val=500)
    drawn(data, "test")  # asked for first
    assert drawn(data, "train") == alone
    assert drawn(data, "train") != drawn(Synthetic(num_test=1000), "test")


def test_predict_uses_the_test_rows():
    data = Synthetic(num_test=17)
    assert drawn(data, "predict") == drawn(data, "test")
    assert data.num_rows("predict") == 17


@pytest.mark.parametrize("part", PARTS)
def test_features_are_standard_normal_and_the_noise_as_large_as_asked(part):
    n = 20_000
    data = Synthetic(true_weight=[2, -3.4, 0.5], noise_std=0.3, **{f"num_{name}": n for name in PARTS})
    X, y = (tensor.double().numpy() for tensor in data.raw(part))
    noise = y[:, 0] - X @ [2, -3.4, 0.5] - 4.2
    columns = np.column_stack([X, noise / 0.3])
    five_sigma = 5 / math.sqrt(n)
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=five_sigma)
    np.testing.assert_allclose(np.cov(columns, rowvar=False), np.eye(4), atol=five_sigma * math.sqrt(2))
    np.testing.assert_allclose((columns**4).mean(axis=0), 3, atol=five_sigma * math.sqrt(96))  # normal, not uniform


def test_without_noise_the_target_is_the_line():
    weight = torch.tensor([1.5, -0.25], dtype=torch.float64)
    X, y = synthetic_data(weight, 3.0, 50, noise_std=0.0, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(y[:, 0], X.numpy() @ [1.5, -0.25] + 3.0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"true_weight": []}, "--data.true_weight []: needs at least one weight, e.g. [2, -3.4]"),
        ({"noise_std": -0.1}, "--data.noise_std -0.1: must be zero or a positive number"),
        ({"noise_std": math.nan}, "--data.noise_std nan: must be zero or a positive number"),
        ({"num_val": -1}, "--data.num_val -1: must be zero or a positive number"),
        ({"batch_size": 0}, "--data.batch_size 0: must be a positive number"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, sentence):
    with pytest.raises(InputError) as error:
        Synthetic(**arguments)
    assert str(error.value) == sentence
