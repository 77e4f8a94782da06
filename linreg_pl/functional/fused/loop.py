"""Many SGD steps as one compiled loop over rows in memory, on a CPU.

A mini-batch of ten rows takes a few hundred floating-point operations, so memory latency limits a shuffled epoch:
a cache miss per row, of about 100 ns. As the order of the rows is known in advance, the loop prefetches
the rows that it needs soon (``llvm.prefetch``) while it works on the current one. Some hundred cache lines are then
in flight at a time. They go to the second-level cache, which has room for more pending requests than the first
(a third to a half faster on an AMD Zen 4). Each row is read once, while it is in the first-level cache: its residual
and its part of the gradient are computed in the same pass.

This module imports numba; `linreg_pl.functional.fused.steps` imports it only to run the loop.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from linreg_pl.functional.compiled import compiled
from linreg_pl.functional.fused.scan import Averaged
from linreg_pl.functional.regression import AVERAGE_DECAY

Floats = NDArray[np.float32]

LINE = 16  # numbers in a cache line
LINES_AHEAD = 160  # cache lines to prefetch; measured, but half or twice as many are as fast
ROWS_AHEAD = 64  # largest number of rows to prefetch
NUM_FEATURES = 0  # if not 0, a constant of the compiled code


def _prefetch(_: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Tell numba how to compile ``prefetch(array, row, column)``, a hint that cannot cause a fault."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = cgutils.get_item_pointer(context, builder, signature.args[0], table, list(arguments[1:]))
        address = builder.bitcast(address, ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        hint = ir.FunctionType(ir.VoidType(), [address.type, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, hint, "llvm.prefetch.p0")
        builder.call(function, [address, int32(0), int32(2), int32(1)])  # read access, second-level cache, data
        return context.get_dummy_value()

    return numba.void(array, numba.intp, numba.intp), build


prefetch: Any = intrinsic(_prefetch)


def _steps(
    theta: Floats,
    rows: Floats,
    order: NDArray[np.unsignedinteger],
    batch_size: int,
    lr: float,
    weight_decay: float,
    has_bias: bool,
    losses: Floats,
    average: NDArray[np.float64],
    steps_averaged: int,
) -> None:
    """Fill ``losses``, and update ``theta`` and ``average``; arguments are those of `run`."""
    num_rows, width, num_features = len(order), rows.shape[1], NUM_FEATURES or len(theta) - 1
    weighted, averaging = width > num_features + 1, len(average) > 0
    number = theta.dtype.type  # keeps the arithmetic in the precision of the parameters
    ahead = max(8, min(ROWS_AHEAD, LINES_AHEAD // (width // LINE + 1)))
    w = theta[:num_features].copy()
    b = theta[num_features]
    descent = np.empty_like(w)  # negative gradient of the summed loss of a mini-batch
    for step in range(len(losses)):
        start = step * batch_size
        stop = min(start + batch_size, num_rows)
        sum_squares, sum_residuals = 0.0, 0.0  # float64, as a mini-batch may have a million rows
        descent[:] = 0
        for i in range(start, stop):
            if i + ahead < num_rows:
                coming = order[i + ahead]
                for p in range(0, width, LINE):
                    prefetch(rows, coming, p)
                prefetch(rows, coming, width - 1)  # for a row that does not begin at a cache line
            row = order[i]
            predicted = number(0)
            for p in range(num_features):
                predicted += rows[row, p] * w[p]
            residual = rows[row, num_features] - (predicted + b)
            pull = residual * rows[row, num_features + 1] if weighted else residual
            sum_squares += float(residual * pull)
            sum_residuals += pull
            for p in range(num_features):
                descent[p] += pull * rows[row, p]
        penalty = number(0)
        if weight_decay:
            for p in range(num_features):
                penalty += w[p] * w[p]
        losses[step] = sum_squares / (2 * (stop - start)) + weight_decay / 2 * penalty
        rate, shrink = number(lr / (stop - start)), number(lr * weight_decay)
        for p in range(num_features):
            w[p] += rate * descent[p] - shrink * w[p]
        if has_bias:
            b += rate * number(sum_residuals)
        if averaging:
            share = (AVERAGE_DECAY + 1) / (steps_averaged + step + 1 + AVERAGE_DECAY)  # `average_share`
            for p in range(num_features):
                average[p] += share * (w[p] - average[p])
            average[num_features] += share * (b - average[num_features])
    theta[:num_features] = w
    theta[num_features] = b


def _compile(name: str, *allowed: str, num_features: int = 0) -> Any:
    # numba's cache tells functions apart by their names alone, not by what is allowed or by their constants
    function = FunctionType(_steps.__code__, globals() | {"NUM_FEATURES": num_features}, name)
    function.__qualname__ = name
    return compiled(*allowed)(function)


# For a few columns, sums are computed in the same order as in torch, with the same rounding. Then even the loss of a
# single row, the square of a small difference of large numbers, has the same digits. Loops over a known number of
# columns are unrolled, which saves a fifth. For more columns, sums may be reordered, so that they vectorise. "nnan" and
# "ninf" are not allowed, as a diverging run must give NaN or infinity.
_of_few_columns = {count: _compile(f"steps_of_{count}_columns", "nsz", num_features=count) for count in (1, 2, 3, 4)}
_reordered = _compile("steps_reordered", "reassoc", "contract", "nsz", "arcp")


def run(
    theta: Tensor,
    rows: Tensor,
    order: Tensor,
    batch_size: int,
    lr: float,
    weight_decay: float,
    has_bias: bool,
    average: Averaged | None = None,
) -> Tensor:
    """Take one step per ``batch_size`` rows of ``order``; arguments and result are those of `sgd_steps`."""
    losses = theta.new_empty(-(-len(order) // batch_size))
    steps = _of_few_columns.get(len(theta) - 1, _reordered)
    indices, rates = order.numpy(), (float(lr), float(weight_decay))
    arrays = theta.detach().numpy(), rows.numpy(), indices.view(f"u{indices.itemsize}")
    averaged = (np.empty(0), 0) if average is None else (average.theta.numpy(), average.steps)
    steps(*arrays, batch_size, *rates, has_bias, losses.numpy(), *averaged)
    if average is not None:
        average.steps += len(losses)
    return losses
