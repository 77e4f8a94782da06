"""Many SGD steps by parallel scan, for any device and any number of processes.

A mini-batch acts on the parameters only through its moments, so it need not be visited when its turn comes
(communication-avoiding descent: Devarakonda, Fountoulakis, Demmel and Mahoney 2019; Devarakonda and Demmel 2020).
Let δ be the distance moved since the start of the chunk, and r the residuals there. With ``u = (δ, -1)`` and
``S = [X 1 r]ᵀ[X 1 r] / n`` of a mini-batch of n rows

- its loss is ``uᵀ S u / 2``,
- its step is ``u ← M u``, where ``M = I - lr S`` with the last row put back to that of ``I``.

So the moments of all mini-batches come from one batched product, one all-reduce serves the whole chunk, and
what is left is a product of matrices, whose prefixes a scan finds in parallel (Blelloch 1990). The delta rule of
linear attention is the same recurrence, and is computed in chunks for the same reason (Yang et al. 2024).

The moments are kept in float64: in the first chunk δ goes from 0 to the optimum, and a loss at the noise floor,
5e-5, is what is left of terms around 10; 1e-4 of it is 1e-10 of them. Later, r is small, and so are the terms.
"""

from collections.abc import Callable

import torch
from torch import Tensor

AllReduce = Callable[[Tensor], object]

SMALL = 8  # so few maps are applied one after another
LARGEST_SCANNED = 20  # on a CPU, the product of two maps of more columns costs more than the steps it saves


def states(maps: Tensor, first: Tensor) -> Tensor:
    """Apply linear maps one after another, by scan: neighbours are multiplied, and the pairs scanned.

    Args:
        maps: shape ``(K, Q, Q)``.
        first: what the first map is applied to, shape ``(Q,)``.

    Returns:
        ``first`` and what each map makes of it in turn, shape ``(K + 1, Q)``.

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
    X: Tensor,
    y: Tensor,
    batch_size: int,
    lr: float,
    weight_decay: float,
    has_bias: bool,
    counts: Tensor,
    all_reduce: AllReduce | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Take K steps; as `sgd_steps`, but X, y and row_weight are this process's rows of the chunk, in order."""
    num_rows, num_features = X.shape
    batch_size = min(batch_size, num_rows)
    free = num_features + has_bias  # coefficients that move
    weight, bias = theta[:-1].double(), theta[-1].double()
    rows = X.new_zeros(len(counts) * batch_size, free + 1, dtype=torch.float64)  # a short mini-batch ends in zeros
    rows[:num_rows, :num_features] = X
    rows[:num_rows, num_features:] = 1
    rows[:num_rows, -1] = y[:, 0] - rows[:num_rows, :num_features] @ weight - bias
    if row_weight is not None:
        rows[:num_rows] *= row_weight.double().sqrt()
    rows = rows.reshape(len(counts), batch_size, free + 1)
    moments = rows.mT @ rows  # (K, Q, Q), Q = free + 1
    if all_reduce is not None:
        all_reduce(moments)
    moments /= counts[:, None, None]
    identity = torch.eye(free + 1, dtype=torch.float64, device=X.device)
    if weight_decay:  # acts as the mean of P more rows: the unit vectors, with targets 0
        ridge = identity[:num_features].clone()
        ridge[:, -1] = -weight
        moments += weight_decay * ridge.mT @ ridge
    maps = torch.sub(identity, moments, alpha=lr)
    maps[:, -1] = identity[-1]
    u = states(maps, -identity[-1])  # (K + 1, Q)
    theta[:free] += u[-1, :-1].to(theta.dtype)
    losses = (u[:-1, None] @ moments @ u[:-1, :, None]).flatten() / 2
    return losses.to(theta.dtype)
