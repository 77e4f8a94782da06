"""Loaders whose items are whole mini-batches, chunks of them, or blocks of a table.

They are plain iterables, and no DataLoaders of torch, which Lightning would replace by others: for several processes,
under ``overfit_batches`` and to predict. Each of them gives a process its own rows in the right order.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from linreg_pl.data.batch import Batch, Rows
from linreg_pl.data.sampling import permutation

T = TypeVar("T")

ROWS_AT_ONCE = 1024  # are fetched together if mini-batches are small: that takes hardly longer than one of them
FIRST_STEPS = 64  # of training are one chunk, at most
Position = Callable[[Any], tuple[int, int]]  # epoch, and its mini-batches already done, of a loader


class Window(NamedTuple):
    """Rows in memory that make up consecutive mini-batches; only the last of an epoch may end in a short one."""

    rows: Rows
    order: Tensor  # shape (n,): mini-batch after mini-batch
    first: int  # number of the first mini-batch within the epoch


class OneWindow:
    """All rows as one window, each epoch in the order of its `permutation`; without a seed always in that of the table.

    While one order is used, another thread draws the next.
    """

    greatest_curvature = math.inf  # that of a single row is not known

    def __init__(self, rows: Rows, seed: int | None) -> None:
        self.rows, self.seed = rows, seed
        self._thread = ThreadPoolExecutor(1)
        self._orders: dict[int, Future[Tensor]] = {}

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield the one window."""
        if self.seed is None:
            order = torch.arange(len(self.rows))
        else:
            self._orders = {
                wanted: self._orders.get(wanted) or self._thread.submit(permutation, len(self.rows), self.seed, wanted)
                for wanted in (epoch, epoch + 1)
            }
            order = self._orders[epoch].result()
        yield Window(self.rows, order, 0)

    def in_order(self) -> Iterator[Callable[[], Batch]]:
        """Yield functions that fetch all rows in the order of the table, some at a time."""
        slices = (slice(start, start + 2**15) for start in range(0, len(self.rows), 2**15))
        return (partial(self.rows.__getitem__, some) for some in slices)


class _Training:
    """A loader of training rows, which reads its place in their order from the Trainer.

    Attributes:
        resumes: whether a fit is to go on where a checkpoint ends.
    """

    resumes = False

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the Trainer's own count is in the checkpoint. Lightning asks for this."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Note that a fit is to go on."""
        self.resumes = True


@dataclass(eq=False)
class MiniBatches(_Training):
    """This process's rows of every mini-batch of an epoch (d2l section 3.3.4: ``data_iter``).

    Mini-batch ``t`` of an epoch is rows ``order[t * batch_size : (t + 1) * batch_size]``, over all processes;
    process ``rank`` takes every ``world_size``-th of them. A process without a row in a mini-batch gets an empty
    one, so that all take the same number of steps.
    """

    num_rows: int  # of an epoch
    windows: Callable[[int, int], Iterator[Window]]  # those of an epoch, beginning with that of a mini-batch
    rows_per_step: int  # over all processes
    rank: int  # of this process
    world_size: int
    position: Position  # asked when iteration starts

    def __len__(self) -> int:
        """Return the number of mini-batches in a whole epoch."""
        return -(-self.num_rows // self.rows_per_step)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the mini-batches from the current position to the end of the epoch."""
        epoch, done = self.position(self)
        size, rank, world_size = self.rows_per_step, self.rank, self.world_size
        at_once = max(1, ROWS_AT_ONCE // size)
        for rows, order, first in self.windows(epoch, done):
            skip = max(0, done - first)
            start = skip - skip % at_once  # a resumed fit fetches the same rows together, for the same bits
            skip -= start
            for before in range(start * size, len(order), at_once * size):
                whole = order[before : before + at_once * size].split(size)
                mine = [indices[rank::world_size] for indices in whole]
                shares = [len(indices) for indices in mine]
                columns = (column.split(shares) for column in rows[torch.cat(mine)])
                for indices, chosen, *parts in islice(zip(whole, mine, *columns, strict=True), skip, None):
                    yield Batch(*parts, num_rows=len(indices), rows=chosen, scaling=rows.scaling)
                skip = 0


class Chunk(NamedTuple):
    """This process's rows of many consecutive mini-batches."""

    rows: Rows
    order: Tensor  # shape (n,): mini-batch after mini-batch
    batch_size: int  # of this process's rows in a mini-batch; the last may have fewer
    counts: Tensor  # int64, shape (K,): rows of each mini-batch over all processes


@dataclass(eq=False)
class Chunks(_Training):
    """Many mini-batches at a time; the first chunks double in length, so that curves show the descent."""

    batches: MiniBatches
    steps: int  # mini-batches in a chunk, at most
    interval: int = 0  # a chunk also ends where the steps since the start of training are a multiple of this, if not 0
    shared: bool = True  # whether the processes share the rows of a mini-batch out, or each gets all

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks from the current position to the end of the epoch."""
        batches = self.batches
        epoch, done = batches.position(self)
        batch_size = batches.rows_per_step
        rank, world_size = (batches.rank, batches.world_size) if self.shared else (0, 1)
        steps_before = epoch * len(batches)
        for window in batches.windows(epoch, done):
            done = max(done, window.first)
            stop = window.first + -(-len(window.order) // batch_size)
            while done < stop:
                steps = min(self.steps, stop - done, max(FIRST_STEPS, steps_before + done))
                if self.interval:
                    steps = min(steps, self.interval - (steps_before + done) % self.interval)
                start = (done - window.first) * batch_size
                order = window.order[start : start + steps * batch_size]
                counts = torch.full((steps,), batch_size)
                counts[-1] = len(order) - (steps - 1) * batch_size
                if world_size > 1:
                    order = torch.cat([batch[rank::world_size] for batch in order.split(batch_size)])
                yield Chunk(window.rows, order, len(range(rank, batch_size, world_size)), counts)
                done += steps


@dataclass(eq=False)
class Blocks(Generic[T]):
    """Blocks of rows in their order, by a function that returns a new iterator each time they are asked for."""

    blocks: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        """Yield the blocks."""
        return self.blocks()
