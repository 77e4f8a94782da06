import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from pyarrow import feather
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from linreg_pl.data.summary import TrainingSummary
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.models import Exact
from tests.support.training import fit


@pytest.fixture
def data():
    return Synthetic(num_train=103, num_val=13, noise_std=0.5)


@pytest.fixture
def table(tmp_path):
    """Makes a table of columns by name."""

    def make(columns, **arguments):
        feather.write_feather(pa.table(columns), tmp_path / "t.feather")
        return Table(str(tmp_path / "t.feather"), target="y", **({"standardize": False} | arguments))

    return make


def rows(data):
    X, y = data.raw("train")
    return X.double().numpy(), y.double().numpy()[:, 0]


def lstsq(data):
    """Weights, then the bias, as `fit` returns them."""
    X, y = rows(data)
    Z = np.column_stack([X, np.ones(len(X))])
    return np.linalg.solve(Z.T @ Z, Z.T @ y)  # of so many rows, the QR of numpy 1.26 has five correct digits


def test_one_step_takes_to_the_optimum(data):
    steps = fit(Exact(2), data)
    assert steps.shape == (1, 3)  # though two epochs were allowed
    np.testing.assert_allclose(steps[0], lstsq(data), rtol=1e-12)


def test_optimum_and_factor_are_kept(data):
    model = Exact(2)
    fit(model, data)
    A = np.column_stack([np.ones(103), *rows(data)[0].T, rows(data)[1]])
    np.testing.assert_allclose(data.summary.factor.T @ data.summary.factor, A.T @ A, rtol=1e-12)
    optimum = data.summary.optimum(bias=True)
    np.testing.assert_allclose([*optimum.weight, optimum.bias], lstsq(data), rtol=1e-12)


def test_many_blocks_give_the_same_as_one_table():
    data = Synthetic(num_train=16 * 2**17 + 1, num_val=0)
    assert len(list(data.blocks("train"))) == 17
    steps = fit(Exact(2), data)
    assert len(steps) == 2
    assert not steps[:-1].any()  # solved after the last block
    np.testing.assert_allclose(steps[-1], lstsq(data), rtol=1e-12)


def test_without_bias(data):
    model = Exact(2, bias=False)
    *weight, bias = fit(model, data)[-1]
    np.testing.assert_allclose(weight, np.linalg.lstsq(*rows(data), rcond=None)[0], rtol=1e-12)
    assert (bias, model.has_bias, len(list(model.parameters()))) == (0.0, False, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_ridge_is_that_of_scikit_learn(data, bias):
    model = Exact(2, bias=bias, ridge=20.0)
    expected = Ridge(20.0, fit_intercept=bias, solver="svd").fit(*rows(data))
    np.testing.assert_allclose(fit(model, data)[-1], [*expected.coef_, expected.intercept_], rtol=1e-11)
    assert model.biased_objective
    assert not Exact(2).biased_objective


def test_ridge_of_a_standardised_table_penalises_its_standardised_columns(table):
    random = np.random.default_rng(0)
    X = random.normal(size=(50, 3)) * [1.0, 1e-3, 100.0] + [5.0, 0.0, 1e4]
    y = X @ [1.0, 1e3, -0.01] + random.normal(size=50)
    data = table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": y}, standardize=True)
    scaler = StandardScaler().fit(X)
    expected = Ridge(5.0, solver="svd").fit(scaler.transform(X), y)
    *weight, bias = fit(Exact(3, ridge=5.0), data)[-1]
    np.testing.assert_allclose(weight, expected.coef_ / scaler.scale_, rtol=1e-10)
    assert bias == pytest.approx(expected.intercept_ - scaler.mean_ @ weight, rel=1e-10)


def test_columns_are_taken_as_precise_as_they_are(table):
    x = np.arange(100.0)
    data = table({"x": 2.0**40 + x, "y": 2.0**45 + 3 * x})  # in float32 both were constant
    np.testing.assert_allclose(fit(Exact(1), data)[-1][0], 3.0, rtol=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_precision_of_the_trainer_does_not_matter(data, precision):
    model = Exact(2)
    np.testing.assert_allclose(fit(model, data, precision=precision)[-1], lstsq(data), rtol=1e-12)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_prediction_is_the_affine_map_in_float64(data):
    model = Exact(2)
    fit(model, data)
    X = torch.randn(5, 2)
    assert model(X).dtype == torch.float64
    expected = X.double().numpy() @ lstsq(data)[:2] + lstsq(data)[2]
    np.testing.assert_allclose(model(X).detach()[:, 0], expected, rtol=1e-12)


def test_loss_is_the_squared_error():
    assert Exact(1).losses(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [2.5]])).tolist() == [[9.0], [0.25]]


def test_checkpoint_round_trip(tmp_path, data):
    fit(Exact(2, ridge=0.5), data, callbacks=[ModelCheckpoint(tmp_path, filename="kept")], enable_checkpointing=True)
    loaded = Exact.load_from_checkpoint(tmp_path / "kept.ckpt", weights_only=True)
    expected = Ridge(0.5, solver="svd").fit(*rows(data))
    np.testing.assert_allclose(loaded.coefficients()[0], expected.coef_, rtol=1e-11)
    summary = TrainingSummary()
    summary.set_factor(torch.load(tmp_path / "kept.ckpt", weights_only=True)["factor"])
    np.testing.assert_allclose(summary.optimum(bias=True).weight, lstsq(data)[:2], rtol=1e-12)  # without the penalty


def test_every_fit_starts_from_no_rows(data):
    model = Exact(2)
    fit(model, data)
    other = Synthetic(num_train=50, seed=1, noise_std=0.5)
    np.testing.assert_allclose(fit(model, other)[-1], lstsq(other), rtol=1e-12)
    assert other.summary.optimum(bias=True).num_rows == 50


def test_more_epochs_do_not_count_the_rows_again(data):
    model = Exact(2)
    fit(model, data, min_epochs=2)
    assert data.summary.optimum(bias=True).num_rows == 103


def test_as_many_rows_as_coefficients_are_enough():
    data = Synthetic(num_train=3, num_val=0)
    np.testing.assert_allclose(fit(Exact(2), data)[-1], lstsq(data), rtol=1e-9)


@pytest.mark.parametrize(("bias", "wanted"), [(True, 4), (False, 3)])
def test_too_few_rows_are_refused(bias, wanted):
    data = Synthetic(true_weight=[1.0, 2.0, 3.0], num_train=wanted - 1, num_val=0)
    with pytest.raises(InputError) as error:
        fit(Exact(3, bias=bias), data)
    assert str(error.value) == (
        f"{wanted - 1} training rows cannot determine {wanted} coefficients: use more rows, fewer columns in"
        " --data.features, or --model.ridge above 0"
    )


def test_ridge_needs_no_more_rows_than_there_are():
    data = Synthetic(true_weight=[1.0, 2.0, 3.0], num_train=2, num_val=0)
    expected = Ridge(0.1, solver="svd").fit(*rows(data))
    np.testing.assert_allclose(fit(Exact(3, ridge=0.1), data)[-1], [*expected.coef_, expected.intercept_], rtol=1e-9)


DEPENDENT = {
    "'b', 'a'": lambda a: {"a": a, "b": -2 * a, "c": a**2},
    "'c'": lambda a: {"a": a, "b": a**2, "c": 3 + 0 * a},
    "'c', 'a', 'b'": lambda a: {"a": a, "b": a**2, "c": a + a**2},
    "'b'": lambda a: {"a": a, "b": 0 * a, "c": a**2},
}


@pytest.mark.parametrize("names", DEPENDENT)
def test_dependent_columns_are_refused_by_name(table, names):
    a = np.random.default_rng(0).normal(size=30)
    with pytest.raises(InputError) as error:
        fit(Exact(3), table(DEPENDENT[names](a) | {"y": a}))
    own, *others = names.split(", ")
    what = f"follows linearly from {', '.join(others)}" if others else "has one value only"
    assert f"not unique: column {own} {what}. Leave {own} out of --data.features" in str(error.value)
    assert "--model.ridge above 0" in str(error.value)


@pytest.mark.parametrize(
    ("names", "standardize"),
    [*((names, False) for names in DEPENDENT), ("'b', 'a'", True), ("'c', 'a', 'b'", True)],
)
def test_ridge_takes_dependent_columns(table, names, standardize):
    a = np.random.default_rng(0).normal(size=30)
    columns = DEPENDENT[names](a)
    y = a + a**3
    X = np.column_stack(list(columns.values()))
    scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(X)
    expected = Ridge(2.0, solver="svd").fit(scaler.transform(X), y)
    model = Exact(3, ridge=2.0)
    fit(model, table(columns | {"y": y}, standardize=standardize))
    predicted = model(torch.from_numpy(X)).detach()[:, 0]
    np.testing.assert_allclose(predicted, expected.predict(scaler.transform(X)), rtol=1e-9)


@pytest.mark.parametrize(("names", "constant"), [("'c'", "'c'"), ("'b'", "'b'")])
def test_constant_column_cannot_be_standardised_for_ridge(table, names, constant):
    a = np.random.default_rng(0).normal(size=30)
    with pytest.raises(InputError) as error:
        fit(Exact(3, ridge=2.0), table(DEPENDENT[names](a) | {"y": a}, standardize=True))
    assert constant in str(error.value)
    assert "ridge above 0" not in str(error.value)  # it is


@pytest.mark.parametrize("ridge", [-1.0, math.nan, math.inf])
def test_ridge_that_cannot_be_is_refused(ridge):
    with pytest.raises(InputError) as error:
        Exact(2, ridge=ridge)
    assert str(error.value) == f"--model.ridge {ridge}: must be zero or a positive number"


def test_description():
    assert Exact(7).describe() == "least squares by Householder QR of [1 X y], 7 features"
