"""Minibatch stochastic gradient descent (d2l section 3.4.4)."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def sgd(params: Iterable[Tensor], lr: float, batch_size: float) -> None:
    """Take one SGD step, in place.

    The notebook's function, with two differences that let the gradient be read
    after the step: it is left as the gradient of the mean loss, and zeroed
    before the next backward pass instead of here.

    Args:
        params: parameters whose ``grad`` holds the gradient of a summed loss.
        lr: step size.
        batch_size: number of rows the loss was summed over.
    """
    for param in params:
        if param.grad is None:
            continue
        param.grad /= batch_size
        param.sub_(param.grad, alpha=lr)
