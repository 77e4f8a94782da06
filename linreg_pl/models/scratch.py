"""Linear regression written by hand (d2l section 3.4).

Notebook 1: the cells that draw ``w`` and ``b``, set ``net = linreg``, and train, step by step.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from linreg_pl.functional.regression import l2_penalty, linreg
from linreg_pl.models.optim import SGD
from linreg_pl.models.sgd import HandWrittenSGD


class Scratch(HandWrittenSGD):
    """Hand-written parameters, model, loss and SGD step.

    The loss is half the squared error, so ``lr`` moves as ``lr / 2`` does in `Concise`,
    and a ``weight_decay`` as twice as much there.

    Args:
        num_features: columns of X.
        lr: step size; "auto" for a quarter of the largest stable one on the training rows.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: adds ``weight_decay * |w|² / 2`` to the mean loss (d2l section 3.7).
        average: whether the coefficients are the average over the steps instead of the last ones.
    """

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
        self.w = nn.Parameter(self.initial_weight(num_features, init_std).reshape(-1, 1))
        self.b = nn.Parameter(torch.zeros(1)) if bias else 0.0
        self.params = [self.w, self.b] if isinstance(self.b, nn.Parameter) else [self.w]

    def net(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from features ``(n, P)``."""
        return linreg(X, self.w, self.b)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take one step of SGD on the mini-batch, as the notebook's loop does."""
        X, y, *weight = self.scaled(batch)
        batch_size = self.rows_per_process(batch)
        loss = self.loss_sum(self.net(X), y, *weight)
        if self.weight_decay:
            loss = loss + batch_size * self.weight_decay * l2_penalty(self.w)
        for param in self.params:
            param.grad = None
        self.manual_backward(loss)
        self.optimizers().step(batch_size=batch_size)  # type: ignore[union-attr]
        if self.average is not None:
            self.average.add(*self.params)
        return loss.detach() / batch_size

    def configure_optimizers(self) -> SGD:
        """Return the hand-written SGD."""
        return SGD(self.params, self.lr)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """``w`` of shape ``(P, 1)`` and ``b`` of shape ``(1,)``."""
        return self.w, self.b if isinstance(self.b, Tensor) else None

    def describe(self) -> str:
        """Name the function and the shapes of its parameters."""
        b = f", b {tuple(self.b.shape)}" if isinstance(self.b, Tensor) else ", b = 0"
        return f"linreg(X, w, b): w {tuple(self.w.shape)}{b}"
