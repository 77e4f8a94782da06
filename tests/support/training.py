"""Fits models with a Trainer and with the notebooks' own loops, and keeps the coefficients after every step."""

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from linreg_pl.data.base import DataModule
from linreg_pl.data.sampling import permutation
from linreg_pl.engine.quiet import quieten
from linreg_pl.models import Concise, LinearModel, Scratch
from tests.support.commands import no_trace_left

EPOCHS = 2
SEED = 11  # of the start


class Steps(L.Callback):
    """Keeps weights and bias after every step."""

    def __init__(self) -> None:
        self.taken: list[list[float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, LinearModel)
        weight, bias = pl_module.coefficients()
        self.taken.append([*weight.tolist(), bias.item()])


def make(kind: type[Scratch] | type[Concise], **arguments: Any) -> Scratch | Concise:
    """Make a model that starts from the tests' seed."""
    with no_trace_left():
        torch.manual_seed(SEED)
        return kind(**({"num_features": 2} | arguments))


def fit(model: LinearModel, data: DataModule, **arguments: Any) -> np.ndarray:
    """Fit and return weights and bias after every step, one row each."""
    steps = Steps()
    defaults = {"max_epochs": EPOCHS, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    with no_trace_left():
        quieten()
        L.Trainer(**(defaults | quiet | {"callbacks": [steps]} | arguments)).fit(model, datamodule=data)
    return np.array(steps.taken)


def start() -> Tensor:
    """Weights to start from, ``(2, 1)``."""
    return 0.01 * torch.randn(2, 1, generator=torch.Generator().manual_seed(SEED))


def mini_batches(data: DataModule, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``data_iter`` of notebook 1 with the row order of this project."""
    features, labels = data.raw("train")
    for rows in permutation(len(labels), data.seed, epoch).split(data.batch_size):
        yield features[rows], labels[rows]


def notebook_1(data: DataModule, lr: float) -> np.ndarray:
    """Notebook 1's loop as it stands there."""
    w, b = start().requires_grad_(), torch.zeros(1, requires_grad=True)
    taken = []
    for epoch in range(EPOCHS):
        for X, y in mini_batches(data, epoch):
            l = ((torch.matmul(X, w) + b) - y.reshape(-1, 1)) ** 2 / 2  # noqa: E741
            l.sum().backward()
            with torch.no_grad():
                for param in [w, b]:
                    param -= lr * param.grad / len(y)  # noqa: PLW2901  # the last mini-batch may be smaller here
                    param.grad.zero_()
            taken.append([*w.reshape(-1).tolist(), b.item()])
    return np.array(taken)


def notebook_2(
    data: DataModule,
    lr: float,
    loss: nn.Module | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
) -> np.ndarray:
    """Notebook 2's loop; the book's exercises change the loss and the optimizer."""
    net = nn.Sequential(nn.Linear(2, 1))
    net[0].weight.data.copy_(start().T)
    net[0].bias.data.fill_(0)
    loss = loss or nn.MSELoss()
    trainer = optimizer(net.parameters(), lr=lr)
    schedule = scheduler(trainer) if scheduler else None
    taken = []
    for epoch in range(EPOCHS):
        for X, y in mini_batches(data, epoch):
            l = loss(net(X), y)  # noqa: E741
            trainer.zero_grad()
            l.backward()
            trainer.step()
            taken.append([*net[0].weight.data.reshape(-1).tolist(), net[0].bias.item()])
        if schedule:
            schedule.step()
    return np.array(taken)


def by_hand(data: DataModule, lr: float, weight_decay: float = 0.0, bias: bool = True) -> np.ndarray:
    """Half squared error and its gradient in NumPy and float64."""
    w, b = start().double().numpy(), 0.0
    taken = []
    for epoch in range(EPOCHS):
        for X, y in mini_batches(data, epoch):
            X, residual = X.double().numpy(), (X.double().numpy() @ w + b - y.double().numpy())  # noqa: PLW2901
            w = w - lr * (X.T @ residual / len(y) + weight_decay * w)
            b = b - lr * residual.mean() if bias else 0.0
            taken.append([*w[:, 0], b])
    return np.array(taken)
