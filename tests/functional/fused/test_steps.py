"""Many SGD steps at once against the same steps one by one, in numpy (float64) and in torch autograd (float32)."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from linreg_pl.functional.fused.steps import sgd_steps

WAYS = ["loop", "scan"]
LR = 0.03


def table(num_rows, num_features, seed=0):
    """Return initial parameters, rows with noise of 0.01, and a shuffled order."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((num_rows, num_features))
    y = X @ rng.uniform(-3, 3, (num_features, 1)) + 4.2 + 0.01 * rng.standard_normal((num_rows, 1))
    theta = np.append(0.01 * rng.standard_normal(num_features), 0.0)
    X, y, theta = (torch.tensor(array, dtype=torch.float32) for array in (X, y, theta))
    return theta, X, y, torch.from_numpy(rng.permutation(num_rows))


def steps(theta, X, y, *arguments, **options):
    return sgd_steps(theta, torch.cat([X, y], dim=1), *arguments, **options)


def numpy_steps(theta, X, y, order, batch_size, lr, weight_decay=0.0, has_bias=True):
    theta, X, y = theta.double().numpy().copy(), X.double().numpy(), y.double().numpy().ravel()
    losses = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size].numpy()
        error = X[rows] @ theta[:-1] + theta[-1] - y[rows]
        losses.append((error**2).mean() / 2 + weight_decay * (theta[:-1] ** 2).sum() / 2)
        theta[:-1] -= lr * (X[rows].T @ error / len(rows) + weight_decay * theta[:-1])
        theta[-1] -= lr * error.mean() * has_bias
    return theta, np.array(losses)


def autograd_steps(theta, X, y, order, batch_size, lr, weight_decay=0.0, has_bias=True):
    w = theta[:-1, None].clone().requires_grad_()
    b = theta[-1:].clone().requires_grad_(has_bias)
    losses = []
    for rows in order.split(batch_size):
        loss = ((X[rows] @ w + b - y[rows]) ** 2 / 2).mean() + weight_decay * (w**2).sum() / 2
        for param, grad in zip((w, b), torch.autograd.grad(loss, (w, b) if has_bias else (w,)), strict=False):
            param.data -= lr * grad
        losses.append(loss.detach())
    return torch.cat([w.detach().flatten(), b.detach()]).double().numpy(), torch.stack(losses).double().numpy()


def check(theta, losses, expected):
    """Compare up to rounding; float32 is accurate to 1e-5 for a residual, the root of a loss, not for the loss."""
    atol, rtol = (1e-9, 1e-9) if losses.dtype == torch.float64 else (1e-5, 5e-5)
    np.testing.assert_allclose(theta, expected[0], atol=atol, rtol=0)
    np.testing.assert_allclose(losses.sqrt(), np.sqrt(np.asarray(expected[1])), atol=atol, rtol=rtol)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_features", [1, 2, 8, 32])
@pytest.mark.parametrize("batch_size", [1, 10, 16, 1000, 5000])
def test_equals_the_steps_one_by_one(way, batch_size, num_features, has_bias, weight_decay):
    theta, X, y, order = table(1003, num_features)
    order, lr = (order[:307], 0.005) if batch_size == 1 else (order, LR)
    arguments = (order, batch_size, lr, weight_decay, has_bias)
    by_numpy = numpy_steps(theta, X, y, *arguments)
    by_autograd = autograd_steps(theta, X, y, *arguments)
    in_double = theta.double()
    losses = steps(in_double, X.double(), y.double(), *arguments, way=way)
    check(in_double, losses, by_numpy)
    losses = steps(theta, X, y, *arguments, way=way)
    assert losses.dtype == torch.float32
    check(theta, losses, by_numpy)
    check(theta, losses, by_autograd)


@pytest.mark.parametrize(("way", "rtol"), [("loop", 5e-4), ("scan", 1e-6)])
def test_reaches_the_noise_floor_in_300_steps(way, rtol):
    """As in the notebook: 1000 rows, 3 epochs, batch size 10. In float32, also by autograd, 3e-4 of a loss is lost."""
    theta, X, y, _ = table(1000, 2)
    order = torch.cat([torch.randperm(1000, generator=torch.Generator().manual_seed(epoch)) for epoch in range(3)])
    expected = numpy_steps(theta, X, y, order, 10, LR)
    losses = steps(theta, X, y, order, 10, LR, way=way)
    np.testing.assert_allclose(theta, expected[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses, expected[1], rtol=rtol)
    assert losses[-10:].mean() < 1e-4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_features", [2, 32, 256])
def test_several_chunks_equal_one_chunk(way, num_features):
    theta, X, y, order = table(500, num_features)
    at_once, lr = theta.clone(), 0.3 / num_features
    expected = steps(at_once, X, y, order, 10, lr, way=way)
    losses = torch.cat([steps(theta, X, y, part, 10, lr, way=way) for part in order.split(70)])
    check(theta, losses, (at_once, expected))


@pytest.mark.parametrize("way", WAYS)
def test_first_loss_is_before_the_first_step(way):
    theta, X, y, order = table(30, 2)
    before = ((X[order[:10]] @ theta[:2, None] + theta[2] - y[order[:10]]) ** 2 / 2).mean()
    torch.testing.assert_close(steps(theta, X, y, order[:10], 10, LR, way=way), before[None])


@pytest.mark.parametrize("way", WAYS)
def test_without_order_rows_are_taken_as_they_are(way):
    theta, X, y, _ = table(35, 3)
    expected = numpy_steps(theta, X, y, torch.arange(35), 10, LR)
    check(theta, steps(theta, X, y, None, 10, LR, way=way), expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_mini_batch_far_larger_than_the_table_is_the_table(way):
    theta, X, y, order = table(20, 2)
    expected = numpy_steps(theta, X, y, order, 20, LR)
    check(theta, steps(theta, X, y, order, 10**12, LR, way=way), expected)


@pytest.mark.parametrize("way", WAYS)
def test_bias_that_is_not_learned_stays(way):
    theta, X, y, order = table(50, 2)
    theta[2] = 4.0
    steps(theta, X, y, order, 10, LR, has_bias=False, way=way)
    assert theta[2] == 4.0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_features", [2, 32])
def test_divergence_shows_in_the_losses(way, num_features):
    theta, X, y, order = table(2000, num_features)
    losses = steps(theta, X, y, order, 1, 50.0, way=way)
    assert losses[0].isfinite()
    assert not losses[-1].isfinite()
    assert not theta.isfinite().any()


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_no_steps(way):
    theta, X, y, order = table(10, 2)
    start = theta.clone()
    assert steps(theta, X, y, order[:0], 10, LR, way=way).shape == (0,)
    assert torch.equal(theta, start)


def test_rows_at_odd_addresses():
    """Views into a wider table, neither contiguous nor aligned to cache lines."""
    theta, X, y, order = table(103, 5)
    wider = torch.cat([y, X, y, X], dim=1)
    expected = numpy_steps(theta, X, y, order, 10, LR)
    check(theta, sgd_steps(theta, wider[:, 1:7], order, 10, LR, way="loop"), expected)


class Processes:
    """Simulated processes: the moments of all ranks are recorded first, then each rank gets their sum."""

    def __init__(self):
        self.recorded = []
        self.calls = 0

    def record(self, moments):
        self.recorded.append(moments.clone())

    def all_reduce(self, moments):
        self.calls += 1
        moments.copy_(sum(self.recorded))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 40), (2, 40), (10, 100), (16, 64), (1000, 1000), (5000, 5000)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_processes_share_the_mini_batches(world_size, batch_size, chunk, weight_decay):
    """Rank r has every world_size-th row of each mini-batch, or none; all take the steps of one process."""
    whole, X, y, order = table(203, 3)
    expected = numpy_steps(whole, X, y, order, batch_size, LR, weight_decay)
    theta, losses, chunks = [whole.clone() for _ in range(world_size)], [], order.split(chunk)
    calls = 0
    for rows in chunks:
        batches = rows.split(batch_size)
        counts = torch.tensor([len(batch) for batch in batches])
        processes = Processes()
        for reduce, start in ((processes.record, [t.clone() for t in theta]), (processes.all_reduce, theta)):
            seen = []
            for rank in range(world_size):
                mine = torch.cat([batch[rank::world_size] for batch in batches])
                share = len(batches[0][rank::world_size])
                arguments = (start[rank], X, y, mine, share, LR, weight_decay)
                seen.append(steps(*arguments, counts=counts, all_reduce=reduce, way="scan"))
        losses.append(seen[0])
        calls += processes.calls
        assert all(torch.equal(theta[0], other) for other in theta)
        assert all(torch.equal(seen[0], other) for other in seen)
    assert calls == world_size * len(chunks)
    check(theta[0], torch.cat(losses), expected)


def test_code_for_few_columns_is_not_loaded_for_many(tmp_path):
    # numba's cache does not see what tells their codes apart: a wide table then had the slow code of a narrow one.
    program = """
import torch
from linreg_pl.functional.fused import loop
from linreg_pl.functional.fused.steps import sgd_steps
for columns in (1, 2, 64):
    sgd_steps(torch.zeros(columns + 1), torch.ones(9, columns + 1), None, 3, 0.01)
    print(*(sum(code.stats.cache_hits.values()) for code in (*loop._of_few_columns.values(), loop._reordered)))
"""

    def cache_hits():
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", program]
        found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        return [tuple(map(int, line.split())) for line in found.splitlines()]

    assert cache_hits() == [(0, 0, 0, 0, 0)] * 3
    assert cache_hits() == [(1, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 1, 0, 0, 1)]
