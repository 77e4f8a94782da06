"""Many steps of minibatch SGD at once (d2l section 3.4.4)."""

from typing import Literal

import torch
from torch import Tensor

from linreg_pl.functional.fused import scan
from linreg_pl.functional.fused.scan import Averaged


@torch.no_grad()
def sgd_steps(
    theta: Tensor,
    rows: Tensor,
    order: Tensor | None,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.0,
    has_bias: bool = True,
    counts: Tensor | None = None,
    all_reduce: scan.AllReduce | None = None,
    way: Literal["loop", "scan"] | None = None,
    average: Averaged | None = None,
) -> Tensor:
    """Take one SGD step on each of many mini-batches, without autograd.

    The steps are those on ``squared_loss(...).mean() + weight_decay * l2_penalty(w)``, one after another, up to
    rounding. On a CPU a compiled loop takes them (`loop`), elsewhere a scan over the moments of the mini-batches
    (`scan`). In the scan, each process computes the moments of its own rows. The loop on one process is faster than
    the scan on eight, so each process takes all steps of the loop, and the results are averaged to be identical.

    Args:
        theta: weights, then bias, shape ``(P + 1,)``, contiguous; updated in place.
        rows: all rows in memory, each of features, target and perhaps its weight in the loss, shape ``(N, P + 1)`` or
            ``(N, P + 2)``; copying the wanted ones first would cost more than the steps.
        order: indices of the rows in the order of the steps, shape ``(n,)``; None for all rows as they are. For the
            scan, the rows of this process only.
        batch_size: rows in a mini-batch (the last may have fewer); for the scan, of this process, which may be 0.
        lr: learning rate. If it diverges, the losses are infinite or NaN.
        weight_decay: strength of the L2 penalty on the weights.
        has_bias: whether the bias is learned.
        counts: rows of each mini-batch over all processes, shape ``(K,)``; needed by the scan with ``all_reduce``.
        all_reduce: sums a tensor over the processes, in place, like ``torch.distributed.all_reduce``; called once.
        way: "loop" or "scan", to choose. The loop takes a second to compile, or half a second to load from the cache.
        average: is told the parameters after every step.

    Returns:
        Loss of each mini-batch before its step, penalty included, shape ``(K,)``.

    Example:
        >>> theta = torch.zeros(2)
        >>> sgd_steps(theta, torch.ones(4, 2), None, 2, lr=0.25)
        tensor([0.5000, 0.1250])
        >>> theta
        tensor([0.3750, 0.3750])
    """
    order = torch.arange(len(rows), device=rows.device) if order is None else order
    if way == "loop" or (way is None and not by_moments(rows.device)):
        from linreg_pl.functional.fused import loop  # imports numba

        losses = loop.run(theta, rows, order, batch_size, lr, weight_decay, has_bias, average)
        if all_reduce is not None:  # as machines may round differently
            total = torch.cat([theta.detach().double(), torch.ones(1, dtype=torch.float64)])
            all_reduce(total)
            theta.copy_(total[:-1] / total[-1])
        return losses
    if counts is None:
        counts = torch.full((-(-len(order) // batch_size),), batch_size, device=rows.device)
        counts[-1:] -= counts.sum() - len(order)
    mine = rows.index_select(0, order)
    return scan.run(theta, mine, batch_size, lr, weight_decay, has_bias, counts, all_reduce, average)


def by_moments(device: torch.device) -> bool:
    """Return whether `sgd_steps` uses the scan on a device, instead of the loop."""
    return device.type != "cpu"


def steps_per_chunk(num_steps: int, batch_size: int, num_features: int, by_moments: bool) -> int:
    """Return how many of an epoch's steps to take at once: by the scan, whose moments must fit into the cache, or not.

    A chunk is large enough to make the Trainer's overhead small. A small table, which takes little
    time anyway, has enough chunks to give its curves some points.
    """
    if by_moments:
        return max(1, min(1024, 2**18 // (num_features + 2) ** 2, 2**16 // batch_size))
    if num_steps * batch_size <= 2**16:
        return -(-num_steps // 32)
    return max(1, 2**20 // batch_size)
