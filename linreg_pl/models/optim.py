"""The hand-written SGD as a torch optimizer, so that the Trainer counts its steps.

Notebook 1: the call of ``sgd`` in the training loop.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from linreg_pl.functional.regression import sgd


class SGD(Optimizer):
    """Plain minibatch SGD for losses that are sums over rows (d2l section 3.4.4).

    Args:
        params: the parameters to update.
        lr: step size.
    """

    def __init__(self, params: ParamsT, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Callable[[], Any] | None = None, *, batch_size: float = 1.0) -> Any:
        """Update every parameter by ``-lr * grad / batch_size``, as the loss was summed over so many rows.

        A closure computes the loss and its gradients first; what it returned is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            sgd(group["params"], group["lr"], batch_size)
        return loss
