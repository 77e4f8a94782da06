"""Minibatch stochastic gradient descent (d2l section 3.4.4): one step, and many at once."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from linreg_pl.functional import sgd_scan


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
        param.sub_(lr * param.grad)


@torch.no_grad()
def sgd_steps(
    theta: Tensor,
    X: Tensor,
    y: Tensor,
    order: Tensor | None,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.0,
    has_bias: bool = True,
    counts: Tensor | None = None,
    all_reduce: sgd_scan.AllReduce | None = None,
    way: Literal["loop", "scan"] | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Take one SGD step on each of many mini-batches, without autograd.

    The steps are those of ``squared_loss(...).mean() + weight_decay * l2_penalty(w)``, one after another, to
    float rounding. They are taken by a compiled loop (`sgd_loop`) on a CPU, else by a scan over the mini-batches'
    moments (`sgd_scan`). The scan shares the rows out over the processes. The loop is faster alone than the scan on
    eight, so every process takes all steps, and they only make sure that all end alike.

    Args:
        theta: weights, then bias, shape ``(P + 1,)``, contiguous; updated in place.
        X: all rows at hand, shape ``(N, P)``; gathering those wanted first would cost more than the steps do.
        y: targets, shape ``(N, 1)``.
        order: rows in the order of the steps, shape ``(n,)``; None for all, as they lie. For the scan this
            process's share of them.
        batch_size: how many of them are in a mini-batch (the last may have fewer); 0 if this process has none.
        lr: step size. One that diverges gives losses of inf or nan.
        weight_decay: strength of the L2 penalty on the weights.
        has_bias: whether the bias is learned.
        counts: rows of each mini-batch over all processes, shape ``(K,)``; needed by the scan with ``all_reduce``.
        all_reduce: sums a tensor over the processes, in place, as ``torch.distributed.all_reduce`` does; called once.
        way: "loop" or "scan", to choose. The loop takes a second to compile or half of one to load; the scan none.
        weight: what the loss of each row counts, shape ``(N, 1)``; ones by default.

    Returns:
        Loss of each mini-batch before its step, penalty included, shape ``(K,)``.

    Example:
        >>> theta = torch.zeros(2)
        >>> sgd_steps(theta, torch.ones(4, 1), torch.ones(4, 1), None, 2, lr=0.25)
        tensor([0.5000, 0.1250])
        >>> theta
        tensor([0.3750, 0.3750])
    """
    order = torch.arange(len(y), device=X.device) if order is None else order.long()
    if way == "loop" or (way is None and not by_moments(X.device)):
        from linreg_pl.functional import sgd_loop  # imports numba

        losses = sgd_loop.run(
            theta.detach().numpy(),
            X.numpy(),
            y.reshape(-1, 1).numpy(),
            order.numpy(),
            batch_size,
            lr,
            weight_decay,
            has_bias,
            None if weight is None else weight.numpy(),
        )
        if all_reduce is not None:  # machines may round differently
            total = torch.cat([theta.detach().double(), torch.ones(1, dtype=torch.float64)])
            all_reduce(total)
            theta.copy_(total[:-1] / total[-1])
        return torch.from_numpy(losses)
    if counts is None:
        counts = torch.full((-(-len(order) // batch_size),), batch_size, device=X.device)
        counts[-1:] -= counts.sum() - len(order)
    return sgd_scan.run(
        theta,
        X[order],
        y.reshape(-1, 1)[order],
        batch_size,
        lr,
        weight_decay,
        has_bias,
        counts,
        all_reduce,
        None if weight is None else weight[order],
    )


def by_moments(device: torch.device) -> bool:
    """Whether the scan takes the steps there, or the loop."""
    return device.type != "cpu"


def steps_per_chunk(num_steps: int, batch_size: int, num_features: int, by_moments: bool) -> int:
    """How many of an epoch's steps to take at once.

    Enough to make the Trainer's cost of a chunk small beside its steps; for a small table, which
    takes no time anyway, few enough to give curves some points.

    Args:
        num_steps: mini-batches in an epoch.
        batch_size: rows of a mini-batch.
        num_features: columns of X.
        by_moments: whether the scan will take the steps, whose moments must fit the cache, or the loop.
    """
    if by_moments:
        return max(1, min(1024, 2**18 // (num_features + 2) ** 2, 2**16 // batch_size))
    if num_steps * batch_size <= 2**16:
        return -(-num_steps // 32)
    return max(1, 2**20 // batch_size)
