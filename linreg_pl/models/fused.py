"""The trajectory of `Scratch` without its overhead: many SGD steps in one training step."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from linreg_pl.data.batch import Rows
from linreg_pl.data.loaders import Chunk
from linreg_pl.engine.trainer import count_steps
from linreg_pl.functional.fused.steps import by_moments, sgd_steps
from linreg_pl.functional.regression import linreg
from linreg_pl.models.base import BY_HAND
from linreg_pl.models.optim import SGD
from linreg_pl.models.sgd import HandWrittenSGD


class Fused(HandWrittenSGD):
    """Half squared error and plain SGD, a chunk of mini-batches at a time, without autograd.

    Same start, rows, order, mini-batches and steps as `Scratch`, to float rounding. Steps,
    checkpoints and curves count SGD steps; curves get points at the ends of chunks.

    Args:
        num_features: columns of X.
        lr: step size; "auto" for a quarter of the largest stable one on the training rows.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: adds ``weight_decay * |w|² / 2`` to the mean loss (d2l section 3.7).
        average: whether the coefficients are the average over the steps instead of the last ones.
    """

    refused_flags = BY_HAND | {
        "precision": "this model computes in float32; leave the flag out",
        **dict.fromkeys(
            ("overfit_batches", "limit_train_batches", "val_check_interval"),  # the first sets the second
            "counts mini-batches, but this model takes many at once; use --model Scratch, or --trainer.max_steps",
        ),
    }
    served = "chunks"

    def __init__(
        self,
        num_features: int,
        lr: float | Literal["auto"] = 0.03,
        bias: bool = True,
        init_std: float = 0.01,
        weight_decay: float = 0.0,
        average: bool = False,
    ) -> None:
        super().__init__(num_features, lr, bias, init_std, weight_decay, average)
        self._has_bias = bias
        self._moved: tuple[Rows, Tensor] | None = None
        self.theta = nn.Parameter(torch.zeros(num_features + 1))  # weights, then bias, as the steps want them
        self.theta.data[:-1] = self.initial_weight(num_features, init_std)

    def net(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from features ``(n, P)``."""
        return linreg(X, self.theta[:-1].unsqueeze(1), self.theta[-1])

    @property
    def steps_by_moments(self) -> bool:  # type: ignore[override]
        """Whether the device of the Trainer takes many steps at once, from the moments of their mini-batches."""
        return by_moments(self.trainer.strategy.root_device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the steps are compiled already
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Take the steps of a chunk, but no more than ``max_steps`` allows; one step on any other mini-batch."""
        chunk = batch if isinstance(batch, Chunk) else self._as_chunk(batch)
        counts, order = chunk.counts, chunk.order
        left = self.trainer.max_steps - self.global_step
        if 0 <= left < len(counts):
            counts, order = counts[:left], order[: left * chunk.batch_size]
        several = self.trainer.world_size > 1
        losses = sgd_steps(
            self.theta,
            self._on_device(chunk.rows),
            order.to(self.device),
            chunk.batch_size,
            self.lr,
            self.weight_decay,
            self._has_bias,
            counts.to(self.device),
            torch.distributed.all_reduce if several else None,
            way="scan" if several and chunk is not batch else None,  # processes know their own rows only
            average=self.average,
        )
        self.optimizers().step()  # type: ignore[union-attr]  # the Trainer counts this as one step
        count_steps(self.trainer, len(counts) - 1)
        return {"loss": losses[-1], "losses": losses}

    def _as_chunk(self, batch: Any) -> Chunk:
        X, y, *weight = self.scaled(batch)
        numbers = torch.cat([X, *(column.to(X.dtype) for column in (y, *weight))], dim=1)
        return Chunk(Rows(numbers, X.shape[1]), torch.arange(len(y)), len(y), torch.tensor([self.num_rows(batch)]))

    def _on_device(self, rows: Rows) -> Tensor:
        """Move rows to the device of the steps, once for many chunks of the same rows."""
        if self._moved is None or self._moved[0] is not rows:
            self._moved = rows, rows.numbers.to(self.device)
        return self._moved[1]

    def configure_optimizers(self) -> SGD:
        """An optimizer that finds no gradients; it carries ``lr`` and counts steps."""
        return SGD(self.parameters(), self.lr)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The weights ``(P,)`` and the bias ``()``, both parts of one parameter."""
        return self.theta[:-1], self.theta[-1] if self._has_bias else None

    def describe(self) -> str:
        """The method and the shape of its parameter."""
        return f"linreg(X, w, b) by fused SGD: w and b in one vector {tuple(self.theta.shape)}"
