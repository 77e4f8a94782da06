"""Any model takes any loader under Lightning's own Trainer, and any module takes our data."""

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from pyarrow import parquet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from linreg_pl.data import Synthetic, Table
from linreg_pl.errors import InputError
from linreg_pl.models import Concise, Exact, Fused, Scratch
from tests.support.training import fit, start

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders
KINDS = [Scratch, Concise, Fused, Exact]
SGD = [Scratch, Concise, Fused]
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SIZE = 10


@pytest.fixture
def rows():
    return Synthetic(num_train=103, num_val=13).raw("train")


def loader(rows, **options):
    return DataLoader(TensorDataset(*rows), SIZE, **options)


def by_hand(kind, X, y, epochs):
    """Weights, then the bias, after SGD on rows in order."""
    Z = np.column_stack([X, np.ones(len(X))]).astype(np.float64)
    target, theta = y[:, 0].double().numpy(), np.append(start().double().numpy(), 0.0)
    for first in list(range(0, len(X), SIZE)) * epochs:
        part = slice(first, first + SIZE)
        step = Z[part].T @ (Z[part] @ theta - target[part]) / len(target[part])
        theta = theta - 0.03 * step * (2 if kind is Concise else 1)
    return theta


def make(kind):
    torch.manual_seed(11)
    return kind(2) if kind is Exact else kind(2, lr=0.03)


def trainer(**options):
    return L.Trainer(**(QUIET | {"max_epochs": 2, "enable_checkpointing": False} | options))


@pytest.mark.parametrize("kind", SGD)
def test_sgd_takes_the_steps_of_arithmetic_on_any_loader(rows, kind):
    model = make(kind)
    trainer().fit(model, loader(rows))
    weight, bias = model.coefficients()
    np.testing.assert_allclose([*weight, bias], by_hand(kind, *rows, epochs=2), atol=5e-6)


def test_exact_finds_the_optimum_on_any_loader(rows):
    model = Exact(2)
    trainer().fit(model, loader(rows, shuffle=True))
    X, y = (part.double().numpy() for part in rows)
    optimum = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y[:, 0])[0]
    weight, bias = model.coefficients()
    np.testing.assert_allclose([*weight, bias], optimum, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_predictions_on_any_loader(rows, kind, capsys):
    model = make(kind)
    whole = trainer()
    whole.fit(model, loader(rows), loader(rows))
    weight, bias = model.coefficients()
    predicted = rows[0].double() @ weight.reshape(-1, 1) + bias
    mse = (predicted - rows[1]).square().mean().item()
    assert whole.callback_metrics["val/mse"].item() == pytest.approx(mse, rel=1e-3)
    assert whole.callback_metrics["train/mse"].item() == pytest.approx(mse, rel=1e-3)
    (tested,) = whole.test(model, loader(rows), verbose=False)
    assert tested["test/mse"] == pytest.approx(mse, rel=1e-3)
    for batches in (loader(rows), DataLoader(rows[0], SIZE)):  # with the targets or without
        found = torch.cat(trainer().predict(model, batches))
        torch.testing.assert_close(found, predicted, rtol=1e-12, atol=1e-12)


@pytest.fixture
def table(tmp_path):
    random = np.random.default_rng(0)
    X = random.normal([100.0, -3.0], [30.0, 0.1], size=(200, 2))
    y = X @ [0.5, 20.0] + 7 + random.normal(size=200)
    parquet.write_table(pa.table({"a": X[:, 0], "b": X[:, 1], "y": y}), tmp_path / "t.parquet")
    return Table(str(tmp_path / "t.parquet"), target="y", val_fraction=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_needs_no_data_module(tmp_path, table, kind):
    model = make(kind)
    fit(model, table, callbacks=[ModelCheckpoint(tmp_path, filename="kept")], enable_checkpointing=True)
    loaded = kind.load_from_checkpoint(tmp_path / "kept.ckpt", weights_only=True)
    assert loaded.feature_names == ["a", "b"]
    X, y = table.raw("val")
    weight, bias = model.coefficients()
    expected = X @ weight.reshape(-1, 1) + bias
    for found in (loaded(X), *trainer().predict(loaded, DataLoader(X, len(X)))):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    (scores,) = trainer().validate(loaded, DataLoader(TensorDataset(X, y), len(X)), verbose=False)
    assert scores["val/mse"] == pytest.approx((expected - y).square().mean().item(), rel=1e-3)


class Another(L.LightningModule):
    """A module that knows nothing of this project."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        X, y = batch
        self.seen.append((X, y))
        return nn.functional.mse_loss(self.net(X), y)

    def validation_step(self, batch, batch_idx):
        X, y = batch
        self.log("loss", nn.functional.mse_loss(self.net(X), y))

    def predict_step(self, batch, batch_idx):
        X, _ = batch
        return self.net(X)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_data_serve_any_module(table, precision):
    model = Another()
    whole = trainer(max_epochs=3, precision=precision)
    whole.fit(model, datamodule=table)
    assert whole.global_step == 3 * -(-180 // table.batch_size)
    X, y = (torch.cat(columns) for columns in zip(*model.seen[: len(model.seen) // 3], strict=True))
    assert {X.dtype, y.dtype} == {torch.float32 if precision == "32-true" else torch.float64}
    torch.testing.assert_close(X.double().mean(dim=0), torch.zeros(2).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(X.double().std(dim=0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-5)
    assert y.flatten().sort().values.tolist() == pytest.approx(table.raw("train")[1].flatten().sort().values.tolist())
    assert whole.callback_metrics["loss"].isfinite()
    assert sum(map(len, whole.predict(model, datamodule=table))) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_targets_may_be_one_dimensional(rows, kind):
    found = []
    for y in (rows[1], rows[1].flatten()):
        model = make(kind)
        trainer().fit(model, loader((rows[0], y)))
        found.append(model.coefficients())
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_two_values_a_row_are_refused(rows, kind):
    with pytest.raises(InputError, match="a linear model needs one value a row"):
        trainer().fit(make(kind), loader((rows[0], rows[0])))
