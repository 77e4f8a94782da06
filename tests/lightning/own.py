"""What a user of Lightning brings: a module, data, and Trainers; and what Lightning says on every run."""

from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import linreg_pl
from linreg_pl import Concise, Exact, Fused, Scratch, Table

ROOT = Path(__file__).parents[2]
NORRIS = ROOT / "configs" / "norris.csv"  # NIST's certified coefficients: x 1.00211681802045, bias -0.262323073774029
FIRST_ROWS = [-0.0619, 337.85]  # what they predict there
AT_500 = 500.796
WEIGHT, BIAS = torch.tensor([[2.0], [-3.4]], dtype=torch.float64), 4.2

MODELS = (Scratch, Concise, Fused, Exact)
SGD = (Scratch, Concise, Fused)
TRAINERS = (L.Trainer, linreg_pl.Trainer)
NOISE = [  # what Lightning says to every user on such small runs; nothing else is let through
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "The '(train|val|test|predict)_dataloader' does not have many workers",
        "The number of training batches .* is smaller than the logging interval",
        "Total length of `list` across ranks is zero",  # there are no validation rows
        "You defined a `validation_step` but have no `val_dataloader`",
        "Checkpoint directory .* exists and is not empty",
    )
]


def trainer(kind=L.Trainer, max_epochs=3, **options):
    """A Trainer that writes nothing, unless asked to."""
    usual = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return kind(max_epochs=max_epochs, enable_model_summary=False, **(usual | options))


def model(kind, num_features=2, lr=0.1, **options):
    """A model with the same start each time."""
    torch.manual_seed(0)
    return kind(num_features, **options) if kind is Exact else kind(num_features, lr=lr, **options)


def norris(**options):
    """The table, standardised."""
    return Table(str(NORRIS), "y", **({"batch_size": 64} | options))


def weights(model):
    """All coefficients in one list."""
    weight, bias = model.coefficients()
    return [*weight.tolist(), bias.item()]


class OwnModule(L.LightningModule):
    """Linear regression as most would write it."""

    def __init__(self, num_features=2, lr=0.1):
        super().__init__()
        self.lr = lr
        self.net = nn.Linear(num_features, 1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def loss(self, batch):
        X, y = batch
        return (self.net(X) - y).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch, batch_idx):
        X, _ = batch
        return self.net(X)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def rows(dtype=torch.float32, count=101, noise=0.1):
    """X and y with known coefficients; the last mini-batch of 10 has one row."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    y = X @ WEIGHT + BIAS + noise * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    return X.to(dtype), y.to(dtype)


def loader(*columns, **options):
    """The usual loader of rows one by one."""
    return DataLoader(TensorDataset(*columns), **({"batch_size": 10} | options))


class Stream(IterableDataset):
    """Rows without a number of them."""

    def __init__(self, *columns):
        self.columns = columns

    def __iter__(self):
        return zip(*self.columns, strict=True)


class OwnData(L.LightningDataModule):
    """A data module as most would write it."""

    def __init__(self, *columns):
        super().__init__()
        self.columns = columns

    def train_dataloader(self):
        return loader(*self.columns, shuffle=True)

    def val_dataloader(self):
        return loader(*self.columns)

    test_dataloader = predict_dataloader = val_dataloader
