"""Linear regression with torch's own parts (d2l section 3.5).

Notebook 2: the cells with ``nn.Linear`` and its initialisation, ``nn.MSELoss``, ``torch.optim.SGD`` and the loop.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torch.optim import Optimizer

from linreg_pl.models.sgd import SGDModel

LOSSES: dict[str, type[nn.Module]] = {"squared": nn.MSELoss, "huber": nn.HuberLoss, "absolute": nn.L1Loss}


class Concise(SGDModel):
    """`nn.Linear`, `nn.MSELoss` and `torch.optim.SGD`.

    The loss is the whole squared error, so ``lr`` moves as ``2 * lr`` does in `Scratch`.

    Args:
        num_features: columns of X.
        lr: step size, of whichever optimizer; "auto" for a quarter of the largest stable one of plain SGD.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: passed to the optimizer for the weights, not for the bias (d2l section 3.7).
        loss: squared error, Huber's loss (delta 1) or absolute error.
        reduction: whether a step follows the mean of the mini-batch's losses or their sum, which is ``batch_size``
            times as long.
        optimizer: any torch optimizer, e.g. ``--model.optimizer Adam``; its ``lr`` is ``lr`` above.
        lr_scheduler: any torch scheduler, stepped once an epoch.
        average: whether the coefficients are the average over the steps instead of the last ones.
    """

    def __init__(
        self,
        num_features: int,
        lr: float | Literal["auto"] = 0.03,
        bias: bool = True,
        init_std: float = 0.01,
        weight_decay: float = 0.0,
        loss: Literal["squared", "huber", "absolute"] = "squared",
        reduction: Literal["mean", "sum"] = "mean",
        optimizer: Callable[[Iterable[Any], float], Optimizer] | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        average: bool = False,
    ) -> None:
        super().__init__(num_features, lr, bias, init_std, weight_decay, average)
        self.net = nn.Sequential(nn.Linear(num_features, 1, bias=bias))
        self.linear.weight.data.copy_(self.initial_weight(num_features, init_std))
        if bias:
            self.linear.bias.data.fill_(0)
        self.loss = LOSSES[loss](reduction="none")
        self.reduction = reduction
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.squared_error_scale = 1.0 if loss == "squared" else None
        self.is_plain_sgd = optimizer is None and lr_scheduler is None

    @property
    def linear(self) -> nn.Linear:
        """The only layer."""
        return self.net[0]  # type: ignore[no-any-return]

    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """The chosen loss."""
        return self.loss(y_hat, y.to(y_hat.dtype))  # type: ignore[no-any-return]  # torch 2.4 mixes no types

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the mean loss of the mini-batch, or the sum; the Trainer does the rest."""
        X, y, *weight = self.scaled(batch)
        mean = self.loss_sum(self.net(X), y, *weight) / self.rows_per_process(batch)
        return mean if self.reduction == "mean" else self.num_rows(batch) * mean

    def configure_optimizers(self) -> Any:
        """The chosen optimizer and scheduler, by default plain SGD."""
        params: Any = self.parameters()
        if self.weight_decay:
            params = [{"params": [self.linear.weight], "weight_decay": self.weight_decay}]
            params += [{"params": [self.linear.bias]}] if self.linear.bias is not None else []
        optimizer = (self.optimizer or torch.optim.SGD)(params, self.lr)
        if self.average is not None:
            average = partial(self.average.add, *self.net.parameters())
            optimizer.register_step_post_hook(lambda *_: average())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The layer's weight of shape ``(1, P)`` and bias of shape ``(1,)``."""
        return self.linear.weight, self.linear.bias

    def describe(self) -> str:
        """The net as torch prints it."""
        return str(self.net)
