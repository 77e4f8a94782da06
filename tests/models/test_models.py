import math

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from linreg_pl.data.batch import Batch
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.errors import InputError
from linreg_pl.functional.standardize import Scaling
from linreg_pl.models import Concise, Fused, Scratch
from tests.support.training import fit, make, mini_batches

KINDS = [Scratch, Concise]


@pytest.fixture
def data():
    return Synthetic(num_train=50, batch_size=16, num_val=13)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_the_affine_map(kind):
    model = make(kind, num_features=3, init_std=1.0)
    X = np.random.default_rng(0).normal(size=(5, 3))
    weight, bias = (part.numpy() for part in model.coefficients())
    predicted = model(torch.tensor(X, dtype=torch.float32))
    assert predicted.shape == (5, 1)
    np.testing.assert_allclose(predicted.detach()[:, 0], X @ weight + bias, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_real_ones(kind):
    model = make(kind)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())
    learned = {name for name, _ in model.named_parameters()}
    assert sum(value.numel() for name, value in model.state_dict().items() if name in learned) == 3
    assert {name.split(".")[0] for name in model.state_dict()} - {name.split(".")[0] for name in learned} == {"scaler"}


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_are_copies_in_float64(kind):
    model = make(kind)
    weight, bias = model.coefficients()
    assert (weight.shape, bias.shape, weight.dtype, bias.dtype) == ((2,), (), torch.float64, torch.float64)
    before = weight.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_of_raw_columns_are_the_parameters(kind):
    model = make(kind, init_std=1.0)
    for coefficient, parameter in zip(model.coefficients(), model.parameter_vectors(), strict=True):
        assert coefficient.flatten().tolist() == parameter.flatten().tolist()


@pytest.mark.parametrize("kind", [*KINDS, Fused])
def test_coefficients_of_standardised_columns_are_for_raw_ones(kind):
    model = make(kind, init_std=1.0)
    model.scaler.set(Scaling(torch.tensor([5.0, -3.0]).double(), torch.tensor([2.0, 10.0]).double()))
    raw = torch.tensor(np.random.default_rng(0).normal([5.0, -3.0], [2.0, 10.0], size=(20, 2)))
    weight, bias = model.coefficients()
    expected = raw @ weight.reshape(-1, 1) + bias
    for predicted in (model(raw), model.net(model.scaler(raw).float())):
        torch.testing.assert_close(predicted.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.predict_step(raw, 0), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_may_be_raw_or_standardised(kind):
    """What the scaling of a batch says decides; a plain pair of tensors is raw."""
    model = make(kind)
    scaling = Scaling(torch.tensor([5.0, -3.0]).double(), torch.tensor([2.0, 10.0]).double())
    model.scaler.set(scaling)
    X, y, weight = torch.randn(20, 2).double() * 10, torch.randn(20, 1), torch.rand(20, 1)
    standardized = scaling.standardize(X).float()
    for batch in ((X, y), [X, y], Batch(X, y), Batch(standardized, y, scaling=scaling)):
        Z, target = model.scaled(batch)
        torch.testing.assert_close(Z, standardized)
        assert torch.equal(target, y)
    assert torch.equal(model.scaled(Batch(X, y, weight))[2], weight)


@pytest.mark.parametrize(("kind", "factor"), [(Scratch, 1.0), (Concise, 2.0)])
def test_gradient_of_the_last_step_is_that_of_the_mean_loss(data, kind, factor):
    model = make(kind, lr=0.1)
    assert model.gradients() == {}
    *_, before, _ = fit(model, data)
    *_, (X, y) = mini_batches(data, epoch=1)
    X, y = X.double().numpy(), y.double().numpy()[:, 0]
    residual = X @ before[:2] + before[2] - y
    np.testing.assert_allclose(model.gradients()["weight"], factor * X.T @ residual / len(y), rtol=1e-4)
    np.testing.assert_allclose(model.gradients()["bias"], [factor * residual.mean()], rtol=1e-4)


def test_nets_are_described_as_the_notebooks_do():
    assert make(Concise).describe() == str(nn.Sequential(nn.Linear(2, 1)))
    assert make(Scratch).describe() == "linreg(X, w, b): w (2, 1), b (1,)"
    assert make(Scratch, bias=False).describe() == "linreg(X, w, b): w (2, 1), b = 0"


@pytest.mark.parametrize(("kind", "per_squared_error"), [(Scratch, 0.5), (Concise, 1.0)])
def test_loss_is_the_models_own(kind, per_squared_error):
    y_hat, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [2.5]])
    losses = make(kind).losses(y_hat, y)
    assert losses.tolist() == [[per_squared_error * 9.0], [per_squared_error * 0.25]]
    assert make(kind).loss_sum(y_hat, y).item() == per_squared_error * 9.25
    assert make(kind).loss_sum(y_hat, y, torch.tensor([[0.5], [2.0]])).item() == per_squared_error * 5


@pytest.mark.parametrize(
    ("kind", "arguments"), [(Scratch, {}), (Concise, {}), (Concise, {"loss": "huber"}), (Concise, {"loss": "absolute"})]
)
def test_process_without_rows_adds_nothing_to_the_gradient(kind, arguments):
    model = make(kind, **arguments)
    model.loss_sum(model(torch.empty(0, 2)), torch.empty(0, 1)).backward()
    assert model.gradients() == {"weight": [0.0, 0.0], "bias": [0.0]}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_count_every_row_once(kind, data):
    model = make(kind)
    X, y = (tensor.double().numpy() for tensor in data.raw("val"))
    mse = ((X @ model.coefficients()[0].numpy() - y[:, 0]) ** 2).mean()
    for _ in range(2):  # what was taken does not count again
        for batch in data.blocks("val"):
            model.score("val", batch)
        assert model.compute_and_reset("val")["mse"] == pytest.approx(mse, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(Scratch, {"bias": False}), (Scratch, {"weight_decay": 0.1}), (Concise, {"loss": "huber", "init_std": 0.5})],
)
def test_checkpoint_round_trip(tmp_path, data, kind, arguments):
    model = make(kind, lr=0.05, **arguments)
    checkpoint = ModelCheckpoint(tmp_path, filename="kept")
    fit(model, data, callbacks=[checkpoint], enable_checkpointing=True)
    loaded = kind.load_from_checkpoint(tmp_path / "kept.ckpt", weights_only=True)
    for ours, theirs in zip(model.coefficients(), loaded.coefficients(), strict=True):
        assert torch.equal(ours, theirs)
    assert dict(loaded.hparams) == dict(model.hparams)
    assert loaded.hparams["lr"] == 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": 0.0}, "--model.lr 0.0: must be a positive number"),
        ({"lr": -1.0}, "--model.lr -1.0: must be a positive number"),
        ({"lr": math.nan}, "--model.lr nan: must be a positive number"),
        ({"lr": math.inf}, "--model.lr inf: must be a positive number"),
        ({"init_std": -1.0}, "--model.init_std -1.0: must be zero or a positive number"),
        ({"weight_decay": -0.5}, "--model.weight_decay -0.5: must be zero or a positive number"),
    ],
)
def test_arguments_that_cannot_be_are_refused(kind, arguments, sentence):
    with pytest.raises(InputError) as error:
        kind(num_features=2, **arguments)
    assert str(error.value) == sentence
