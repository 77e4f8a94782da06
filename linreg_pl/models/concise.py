"""Linear regression with torch's own parts (d2l section 3.5)."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torch.optim import Optimizer

from linreg_pl.data.rows import Batch
from linreg_pl.models.base import SGDModel

LOSSES: dict[str, type[nn.Module]] = {"squared": nn.MSELoss, "huber": nn.HuberLoss, "absolute": nn.L1Loss}


class Concise(SGDModel):
    """`nn.Linear`, `nn.MSELoss` and `torch.optim.SGD`.

    The loss is the whole squared error, so ``lr`` moves as ``2 * lr`` does in `Scratch`.

    Args:
        num_features: columns of X; taken from the data.
        lr: step size, of whichever optimizer.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: passed to the optimizer for the weights, not for the bias (d2l section 3.7).
        loss: squared error, Huber's loss (delta 1) or absolute error.
        reduction: whether a step follows the mean of the mini-batch's losses or their sum, which is ``batch_size``
            times as long.
        optimizer: any torch optimizer, e.g. ``--model.optimizer Adam``; its ``lr`` is ``lr`` above.
        lr_scheduler: any torch scheduler, stepped once an epoch.
    """

    def __init__(
        self,
        num_features: int,
        lr: float = 0.03,
        bias: bool = True,
        init_std: float = 0.01,
        weight_decay: float = 0.0,
        loss: Literal["squared", "huber", "absolute"] = "squared",
        reduction: Literal["mean", "sum"] = "mean",
        optimizer: Callable[[Iterable[Any], float], Optimizer] | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(num_features, lr, bias, init_std, weight_decay)
        self.net = nn.Sequential(nn.Linear(num_features, 1, bias=bias))
        self.linear.weight.data.copy_(self.initial_weight(num_features, init_std))
        if bias:
            self.linear.bias.data.fill_(0)
        self.loss = LOSSES[loss](reduction="none")
        self.reduction = reduction
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.loss_per_squared_error = 1.0 if loss == "squared" else None
        self.takes_plain_steps = optimizer is None and lr_scheduler is None
        self._plateau_due = False

    @property
    def linear(self) -> nn.Linear:
        """The only layer."""
        return self.net[0]  # type: ignore[return-value]

    def forward(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from features ``(n, P)``."""
        return self.net(X)  # type: ignore[no-any-return]

    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """The chosen loss."""
        return self.loss(y_hat, y)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the mini-batch, or the sum; the Trainer does the rest."""
        mean = self.loss_sum(self(batch.X), batch) / self.share_of_rows(batch)
        return mean if self.reduction == "mean" else batch.num_rows * mean

    def configure_optimizers(self) -> Any:
        """The chosen optimizer and scheduler, by default plain SGD."""
        params: Any = self.parameters()
        if self.weight_decay:
            params = [{"params": [self.linear.weight], "weight_decay": self.weight_decay}]
            params += [{"params": [self.linear.bias]}] if self.linear.bias is not None else []
        optimizer = (self.optimizer or torch.optim.SGD)(params, self.lr)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_train_epoch_end(self) -> None:
        """Let a scheduler that waits for a plateau see the epoch's score before the checkpoint is made, not after."""
        if isinstance(self.lr_schedulers(), ReduceLROnPlateau) and self.trainer.is_last_batch:
            self._plateau_due = True
            self.trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            self._plateau_due = False

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step, but not once more where `on_train_epoch_end` did."""
        if metric is None or self._plateau_due:
            super().lr_scheduler_step(scheduler, metric)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The layer's weight of shape ``(1, P)`` and bias of shape ``(1,)``."""
        return self.linear.weight, self.linear.bias

    def describe(self) -> str:
        """The net as torch prints it."""
        return str(self.net)
