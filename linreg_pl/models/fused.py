"""The trajectory of `Scratch` without its overhead: many SGD steps in one training step."""

import torch
from torch import Tensor, nn

from linreg_pl.data.base import data_of
from linreg_pl.data.sampling import Chunk
from linreg_pl.functional.regression import linreg
from linreg_pl.functional.sgd import sgd_steps
from linreg_pl.models.base import BY_HAND, HandWrittenSGD
from linreg_pl.optim import SGD


class Fused(HandWrittenSGD):
    """Half squared error and plain SGD, a chunk of mini-batches at a time, without autograd.

    Same start, rows, order, mini-batches and steps as `Scratch`, to float rounding. Steps,
    checkpoints and curves count SGD steps; curves get points at the ends of chunks.

    Args:
        num_features: columns of X; taken from the data.
        lr: step size.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: adds ``weight_decay * |w|² / 2`` to the mean loss (d2l section 3.7).
    """

    refused_flags = BY_HAND | {
        "precision": "this model computes in float32; leave the flag out",
        **dict.fromkeys(
            ("limit_train_batches", "overfit_batches", "val_check_interval"),
            "counts mini-batches, but this model takes many at once; use --model Scratch, or --trainer.max_steps",
        ),
    }
    in_chunks = True

    def __init__(
        self,
        num_features: int,
        lr: float = 0.03,
        bias: bool = True,
        init_std: float = 0.01,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_features, lr, bias, init_std, weight_decay)
        self._has_bias = bias
        self.theta = nn.Parameter(torch.zeros(num_features + 1))  # weights, then bias, as the steps want them
        self.theta.data[:-1] = self.initial_weight(num_features, init_std)

    def forward(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from features ``(n, P)``."""
        return linreg(X, self.theta[:-1].unsqueeze(1), self.theta[-1])

    def on_train_start(self) -> None:
        """Take hold of all training rows; a chunk says only which of them come next."""
        rows = data_of(self.trainer).rows("train")
        self._X, self._y = rows.X.to(self.device), rows.y.to(self.device)

    def training_step(self, chunk: Chunk, batch_idx: int) -> dict[str, Tensor]:
        """Take the steps of a chunk, but no more than ``max_steps`` allows."""
        counts, order = chunk.counts, chunk.order
        left = self.trainer.max_steps - self.global_step
        if 0 <= left < len(counts):
            counts, order = counts[:left], order[: left * chunk.batch_size]
        losses = sgd_steps(
            self.theta,
            self._X,
            self._y,
            order,
            chunk.batch_size,
            self.lr,
            self.weight_decay,
            self._has_bias,
            counts,
            torch.distributed.all_reduce if self.trainer.world_size > 1 else None,
        )
        self.optimizers().step()  # type: ignore[union-attr]  # counts one step; the others are counted here:
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        progress.ready += len(counts) - 1
        progress.completed += len(counts) - 1
        return {"loss": losses[-1], "losses": losses}

    def configure_optimizers(self) -> SGD:
        """An optimizer that finds no gradients; it carries ``lr`` and counts steps."""
        return SGD(self.parameters(), self.lr)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The weights ``(P,)`` and the bias ``()``, both parts of one parameter."""
        return self.theta[:-1], self.theta[-1] if self._has_bias else None

    def describe(self) -> str:
        """The method and the shape of its parameter."""
        return f"linreg(X, w, b) by fused SGD: w and b in one vector {tuple(self.theta.shape)}"
