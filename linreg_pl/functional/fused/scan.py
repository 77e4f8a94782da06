"""Many SGD steps by parallel scan, for any device and any number of processes.

A mini-batch affects the parameters only through its moments, which can be computed in advance
(communication-avoiding descent: Devarakonda, Fountoulakis, Demmel and Mahoney 2019; Devarakonda and Demmel 2020).
Let δ be the change of the parameters since the start of the chunk, and r the residuals at its start. With
``u = (δ, -1)`` and
``S = [X 1 r]ᵀ[X 1 r] / n`` of a mini-batch of n rows

- its loss is ``uᵀ S u / 2``,
- its step is ``u ← M u``, where ``M`` is ``I - lr S`` with its last row replaced by that of ``I``.

So one batched product gives the moments of all mini-batches, a chunk needs one all-reduce, and the rest is a product
of matrices, whose prefixes a scan computes in parallel (Blelloch 1990). The delta rule of linear attention is the
same recurrence, and is computed in chunks for the same reason (Yang et al. 2024).

The moments are computed in float64. In the first chunk δ goes from 0 to the optimum, and a loss at the noise floor
(5e-5) is the difference of terms around 10; a relative error of 1e-4 of it is 1e-10 of them. Later, r and these
terms are small.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

AllReduce = Callable[[Tensor], object]


class Averaged(Protocol):
    """An average over the steps, as `linreg_pl.models.average.Average`."""

    steps: int
    theta: Tensor

    def add_steps(self, thetas: Tensor) -> None:
        """Add the parameters after each of some steps, float64, shape ``(K, P + 1)``."""


SMALL = 8  # up to so many maps are applied one after another
LARGEST_SCANNED = 20  # on a CPU, products of maps with more columns cost more than they save


def states(maps: Tensor, first: Tensor) -> Tensor:
    """Apply linear maps one after another, by a scan: multiply neighbours, then scan the pairs.

    Args:
        maps: shape ``(K, Q, Q)``.
        first: the vector that the first map is applied to, shape ``(Q,)``.

    Returns:
        ``first`` and the vector after each map, shape ``(K + 1, Q)``.

    Example:
        >>> states(torch.tensor([[[2.0]], [[3.0]]]), torch.tensor([1.0])).flatten()
        tensor([1., 2., 6.])
    """
    count = len(maps)
    if count <= SMALL or (maps.is_cpu and maps.shape[-1] > LARGEST_SCANNED):
        reached = [first]
        for matrix in maps:
            reached.append(matrix @ reached[-1])
        return torch.stack(reached)
    reached_by_pairs = states(maps[1::2] @ maps[: count - 1 : 2], first)
    result = first.new_empty(count + 1, len(first))
    result[::2] = reached_by_pairs
    result[1::2] = (maps[::2] @ reached_by_pairs[: (count + 1) // 2, :, None]).squeeze(-1)
    return result


def run(
    theta: Tensor,
    mine: Tensor,
    batch_size: int,
    lr: float,
    weight_decay: float,
    has_bias: bool,
    counts: Tensor,
    all_reduce: AllReduce | None = None,
    average: Averaged | None = None,
) -> Tensor:
    """Take K steps, as `sgd_steps`; ``mine`` are this process's rows of the chunk, in order."""
    num_rows, num_features = len(mine), len(theta) - 1
    X, y, *row_weight = mine.split([num_features, *[1] * (mine.shape[1] - num_features)], dim=1)
    batch_size = min(batch_size, num_rows)
    free = num_features + has_bias  # number of learned coefficients
    weight, bias = theta[:-1].double(), theta[-1].double()
    rows = mine.new_zeros(len(counts) * batch_size, free + 1, dtype=torch.float64)  # zeros fill up a short mini-batch
    rows[:num_rows, :num_features] = X
    rows[:num_rows, num_features:] = 1
    rows[:num_rows, -1] = y[:, 0] - rows[:num_rows, :num_features] @ weight - bias
    if row_weight:
        rows[:num_rows] *= row_weight[0].double().sqrt()
    rows = rows.reshape(len(counts), batch_size, free + 1)
    moments = rows.mT @ rows  # (K, Q, Q), Q = free + 1
    if all_reduce is not None:
        all_reduce(moments)
    moments /= counts[:, None, None]
    identity = torch.eye(free + 1, dtype=torch.float64, device=mine.device)
    if weight_decay:  # equals P additional rows: the unit vectors, with targets 0
        ridge = identity[:num_features].clone()
        ridge[:, -1] = -weight
        moments += weight_decay * ridge.mT @ ridge
    maps = torch.sub(identity, moments, alpha=lr)
    maps[:, -1] = identity[-1]
    u = states(maps, -identity[-1])  # (K + 1, Q)
    if average is not None:
        reached = theta.double().repeat(len(counts), 1)
        reached[:, :free] += u[1:, :-1]
        average.add_steps(reached)
    theta[:free] += u[-1, :-1].to(theta.dtype)
    losses = (u[:-1, None] @ moments @ u[:-1, :, None]).flatten() / 2
    return losses.to(theta.dtype)
