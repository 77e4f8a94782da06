"""The model, the losses and the SGD step of linear regression (d2l sections 3.1, 3.4 and 3.7).

Notebook 1: the cells that define ``linreg``, ``squared_loss`` and ``sgd``.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, matmul


def linreg(X: Tensor, w: Tensor, b: Tensor | float) -> Tensor:
    """Predict ``Xw + b`` (d2l equation 3.1.4).

    Args:
        X: features, shape ``(n, P)``.
        w: weights, shape ``(P, 1)``.
        b: bias, shape ``(1,)``, or a number.

    Returns:
        Predictions, shape ``(n, 1)``.

    Example:
        >>> from torch import tensor
        >>> linreg(tensor([[1.0, 2.0]]), tensor([[2.0], [-3.4]]), 4.2)
        tensor([[-0.6000]])
    """
    return matmul(X, w) + b


def squared_loss(y_hat: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of each row (d2l equation 3.1.5).

    Its gradient is half that of ``MSELoss``, so SGD on this loss with ``lr`` takes
    the same steps as SGD on ``MSELoss`` with ``lr / 2``.

    Args:
        y_hat: predictions, shape ``(n, 1)``.
        y: targets with as many elements as ``y_hat``.

    Returns:
        Losses, shape ``(n, 1)``.

    Example:
        >>> from torch import tensor
        >>> squared_loss(tensor([[3.0]]), tensor([1.0]))
        tensor([[2.]])
    """
    return (y_hat - y.reshape(y_hat.shape)) ** 2 / 2


def l2_penalty(w: Tensor) -> Tensor:
    """Half the squared length of the weights (d2l section 3.7.3).

    Args:
        w: weights of any shape.

    Returns:
        A scalar.
    """
    return (w**2).sum() / 2


AVERAGE_DECAY = 3  # of `average_share`: the last quarter of the steps has two thirds of the weight


def average_share(step: int) -> float:
    """The share that the parameters after a step, counted from 1, get in their polynomial-decay average.

    ``4 / (t + 3)``, so the early steps are forgotten as ``t⁻⁴``, and no number of steps need be known in advance
    (Shamir and Zhang 2013, Stochastic Gradient Descent for Non-smooth Optimization, section 4).

    Example:
        >>> average_share(1), average_share(5)
        (1.0, 0.5)
    """
    return (AVERAGE_DECAY + 1) / (step + AVERAGE_DECAY)


@torch.no_grad()
def sgd(params: Iterable[Tensor], lr: float, batch_size: float) -> None:
    """Take one SGD step, in place.

    It differs from the notebook's function so that the gradient can be read after
    the step: ``grad`` becomes the gradient of the mean loss, and it is zeroed before
    the next backward pass instead of here.

    Args:
        params: parameters whose ``grad`` holds the gradient of a summed loss.
        lr: step size.
        batch_size: number of rows the loss was summed over.
    """
    for param in params:
        if param.grad is None:
            continue
        param.grad /= batch_size
        param.sub_(lr * param.grad)
