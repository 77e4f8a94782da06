"""The trajectory of `Scratch` without its overhead: many SGD steps in one training step."""

from typing import Any

import torch
from torch import Tensor, nn

from linreg_pl.data.rows import Rows
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
        self._moved: tuple[Rows, tuple[Tensor, Tensor, Tensor | None]] | None = None
        self.theta = nn.Parameter(torch.zeros(num_features + 1))  # weights, then bias, as the steps want them
        self.theta.data[:-1] = self.initial_weight(num_features, init_std)

    def forward(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from features ``(n, P)``."""
        return linreg(X, self.theta[:-1].unsqueeze(1), self.theta[-1])

    def training_step(self, chunk: Chunk, batch_idx: int) -> dict[str, Tensor]:
        """Take the steps of a chunk, but no more than ``max_steps`` allows."""
        counts, order = chunk.counts, chunk.order
        left = self.trainer.max_steps - self.global_step
        if 0 <= left < len(counts):
            counts, order = counts[:left], order[: left * chunk.batch_size]
        X, y, weight = self._on_device(chunk.rows)
        losses = sgd_steps(
            self.theta,
            X,
            y,
            order.to(self.device),
            chunk.batch_size,
            self.lr,
            self.weight_decay,
            self._has_bias,
            counts.to(self.device),
            torch.distributed.all_reduce if self.trainer.world_size > 1 else None,
            weight=weight,
        )
        self.optimizers().step()  # type: ignore[union-attr]  # counts one step; the others are counted here:
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        progress.ready += len(counts) - 1
        progress.completed += len(counts) - 1
        return {"loss": losses[-1], "losses": losses}

    def _on_device(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows where the steps are taken; moved once, for many chunks are of the same rows."""
        if self._moved is None or self._moved[0] is not rows:
            weight = None if rows.weight is None else rows.weight.to(self.device)
            self._moved = rows, (rows.X.to(self.device), rows.y.to(self.device), weight)
        return self._moved[1]

    def _apply_batch_transfer_handler(self, batch: Any, *arguments: Any, **options: Any) -> Any:
        """Leave chunks to `_on_device`."""
        return (
            batch if isinstance(batch, Chunk) else super()._apply_batch_transfer_handler(batch, *arguments, **options)
        )

    def configure_optimizers(self) -> SGD:
        """An optimizer that finds no gradients; it carries ``lr`` and counts steps."""
        return SGD(self.parameters(), self.lr)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The weights ``(P,)`` and the bias ``()``, both parts of one parameter."""
        return self.theta[:-1], self.theta[-1] if self._has_bias else None

    def describe(self) -> str:
        """The method and the shape of its parameter."""
        return f"linreg(X, w, b) by fused SGD: w and b in one vector {tuple(self.theta.shape)}"
