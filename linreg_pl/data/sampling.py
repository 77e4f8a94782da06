"""Which rows come when.

The order of the rows is a pure function of (seed, epoch). Mini-batch ``t`` of an epoch
is rows ``order[t * batch_size : (t + 1) * batch_size]``, over all processes; process
``rank`` takes every ``world_size``-th of them. So the number of processes does not
change a mini-batch, and the position in the epoch is all the state there is.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, SequentialSampler

from linreg_pl.data.rows import Batch, Rows, Share

FIRST_STEPS = 64  # of training are one chunk, at most


class Sample:
    """A seeded sample of a part's rows, taken from its blocks as they go by, one row out of every so many.

    It depends neither on who reads the blocks nor on how often they are read.

    Args:
        share: how many of the rows.
        seed: decides which.

    Attributes:
        blocks: columns of the rows taken from each block, by where it begins.
    """

    def __init__(self, share: float, seed: int) -> None:
        self.share = share
        self.seed = seed
        self.blocks: dict[int, tuple[Tensor, ...]] = {}

    def see(self, batch: Batch) -> None:
        """Take some rows of a block."""
        assert isinstance(batch.rows, slice)
        start, length = batch.rows.start, len(batch.y)
        if start in self.blocks:
            return
        generator = seeded_generator(self.seed, "sample", start)
        draws = torch.rand(int(self.share * length) + 2, generator=generator, dtype=torch.float64)
        count = min(int(self.share * length + draws[-1]), length)
        taken = ((torch.arange(count) + draws[:count]) * (length / max(count, 1))).long().clamp_(max=length - 1)
        if count:
            self.blocks[start] = tuple(column[taken] for column in batch.columns)

    def columns(self) -> list[Tensor]:
        """Features ``(n, P)``, targets ``(n, 1)`` and perhaps weights ``(n, 1)``, in the order of the rows, float64."""
        blocks = [self.blocks[start] for start in sorted(self.blocks)]
        return [torch.cat(column).double() for column in zip(*blocks, strict=True)]


class Window(NamedTuple):
    """Rows in memory that make up consecutive mini-batches."""

    rows: Rows
    order: Tensor  # shape (n,): mini-batch after mini-batch
    first: int  # number of the first mini-batch within the epoch


class Windows(Protocol):
    """What gives an epoch's rows in their order: a table in memory at once, a larger one in many windows."""

    num_rows: int

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield the epoch from the window with mini-batch ``first`` on; only the last may end in a short mini-batch."""


class Chunk(NamedTuple):
    """This process's rows of many consecutive mini-batches."""

    rows: Rows
    order: Tensor  # shape (n,): mini-batch after mini-batch
    batch_size: int  # of this process's rows in a mini-batch; the last may have fewer
    counts: Tensor  # int64, shape (K,): rows of each mini-batch over all processes


def seeded_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on the key alone, never on global state.

    Args:
        key: what the random numbers are for, e.g. ``(seed, "order", epoch)``.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def permutation(num_rows: int, seed: int, epoch: int) -> Tensor:
    """Order of the rows in an epoch, shape ``(num_rows,)``; int32 where that is wide enough, which is faster."""
    dtype = torch.int32 if num_rows < 2**31 else torch.int64
    return torch.randperm(num_rows, generator=seeded_generator(seed, "order", epoch), dtype=dtype)


class Orders:
    """Orders of the rows; while one is used, another thread draws that of the next epoch.

    Args:
        num_rows: number of rows.
        seed: shuffles the rows anew each epoch; None keeps them in order.
    """

    def __init__(self, num_rows: int, seed: int | None) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self._thread = ThreadPoolExecutor(1)
        self._drawn: dict[int, Future[Tensor]] = {}

    def of(self, epoch: int) -> Tensor:
        """Order of the rows in an epoch, shape ``(num_rows,)``."""
        if self.seed is None:
            return torch.arange(self.num_rows)
        self._drawn = {
            wanted: self._drawn.get(wanted) or self._thread.submit(permutation, self.num_rows, self.seed, wanted)
            for wanted in (epoch, epoch + 1)
        }
        return self._drawn[epoch].result()


def start_of_epoch_zero() -> tuple[int, int]:
    """Epoch and position of a loader that always starts from the beginning."""
    return 0, 0


class MiniBatches(SequentialSampler):
    """The share of this process in every mini-batch of an epoch.

    A process with no row in a mini-batch gets an empty share, so that all processes
    take the same number of steps. (By type a SequentialSampler: any other is replaced by
    Lightning under ``overfit_batches``.)

    Args:
        num_rows: number of rows of the data set.
        batch_size: rows in one mini-batch, over all processes.
        rank: this process.
        world_size: number of processes.
        seed: shuffles the rows anew each epoch; None keeps them in order.
        position: tells the epoch and the number of its mini-batches already done; asked
            when iteration starts.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] = start_of_epoch_zero,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.orders = Orders(num_rows, seed)
        self.position = position

    def __len__(self) -> int:
        """Mini-batches in a whole epoch."""
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Share]:  # type: ignore[override]
        """Yield the shares from the current position to the end of the epoch."""
        epoch, done = self.position()
        order = None if self.seed is None else self.orders.of(epoch)
        for start in range(done * self.batch_size, self.num_rows, self.batch_size):
            stop = min(start + self.batch_size, self.num_rows)
            mine = slice(start + self.rank, stop, self.world_size)
            yield Share(mine if order is None else order[mine], stop - start)


class OneWindow:
    """All rows as one window.

    Args:
        rows: the rows.
        orders: their order in each epoch.
    """

    def __init__(self, rows: Rows, orders: Orders) -> None:
        self.rows = rows
        self.orders = orders
        self.num_rows = len(rows)

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield the one window."""
        yield Window(self.rows, self.orders.of(epoch), 0)


class FromWindows(IterableDataset[Any]):
    """The share of this process in the mini-batches of a table that comes in windows.

    Args:
        source: the rows.
        batch_size: rows in one mini-batch, over all processes.
        rank: this process.
        world_size: number of processes.
        position: tells the epoch and the number of its mini-batches already done.
    """

    def __init__(
        self,
        source: Windows,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] = start_of_epoch_zero,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.position = position

    @property
    def num_steps(self) -> int:
        """Mini-batches in a whole epoch."""
        return -(-self.source.num_rows // self.batch_size)


class Streamed(FromWindows):
    """The mini-batches one by one; see `FromWindows` for the arguments."""

    def __len__(self) -> int:
        """Mini-batches in a whole epoch."""
        return self.num_steps

    def __iter__(self) -> Iterator[Batch]:
        """Yield the mini-batches from the current position to the end of the epoch."""
        epoch, done = self.position()
        for window in self.source.windows(epoch, done):
            for batch in window.order.split(self.batch_size)[max(0, done - window.first) :]:
                yield window.rows[Share(batch[self.rank :: self.world_size], len(batch))]


class Chunks(FromWindows):
    """Many mini-batches at a time; the first chunks double in length, so that curves show the descent.

    Args:
        steps: mini-batches in a chunk, at most.
        divisor: a chunk also ends where the number of steps since the start of training is a
            multiple of this, if not 0.
        others: see `FromWindows`; ``position`` counts mini-batches here too.
    """

    def __init__(self, *others: Any, steps: int, divisor: int = 0) -> None:
        super().__init__(*others)
        self.steps = steps
        self.divisor = divisor

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks from the current position to the end of the epoch."""
        epoch, done = self.position()
        steps_before = epoch * self.num_steps
        size = len(range(self.rank, self.batch_size, self.world_size))
        for window in self.source.windows(epoch, done):
            done = max(done, window.first)
            stop = window.first + -(-len(window.order) // self.batch_size)
            while done < stop:
                steps = min(self.steps, stop - done, max(FIRST_STEPS, steps_before + done))
                if self.divisor:
                    steps = min(steps, self.divisor - (steps_before + done) % self.divisor)
                start = (done - window.first) * self.batch_size
                order = window.order[start : start + steps * self.batch_size]
                counts = torch.full((steps,), self.batch_size)
                counts[-1] = len(order) - (steps - 1) * self.batch_size
                if self.world_size > 1:
                    order = torch.cat([batch[self.rank :: self.world_size] for batch in order.split(self.batch_size)])
                yield Chunk(window.rows, order, size, counts)
                done += steps


class Split:
    """Which rows are held out: the same share of every 65536 consecutive rows, drawn at random.

    The rows after the last whole 65536 belong to those before.

    Args:
        num_rows: rows of the table.
        fractions: share of each part that is held out.
        seed: decides the draw.
    """

    BLOCK = 2**16

    def __init__(self, num_rows: int, fractions: Sequence[float], seed: int) -> None:
        self.num_rows = num_rows
        self.fractions = fractions
        self.seed = seed
        self._last = max(1, num_rows // self.BLOCK) - 1

    def counts(self) -> list[int]:
        """Rows of each part held out."""
        return [round(fraction * self.num_rows) for fraction in self.fractions]

    def parts(self, start: int, stop: int) -> Tensor:
        """Part of each of some consecutive rows, ``(stop - start,)``: 0 for training, then as in ``fractions``."""
        first = min(start // self.BLOCK, self._last)
        blocks = [self._block(block) for block in range(first, min(-(-stop // self.BLOCK), self._last + 1))]
        return torch.cat(blocks)[start - first * self.BLOCK : stop - first * self.BLOCK]

    @lru_cache(maxsize=4)  # noqa: B019
    def _block(self, block: int) -> Tensor:
        start, stop = block * self.BLOCK, self.num_rows if block == self._last else (block + 1) * self.BLOCK
        order = torch.randperm(stop - start, generator=seeded_generator(self.seed, "split", block))
        parts = torch.zeros(stop - start, dtype=torch.uint8)
        taken = 0
        for part, fraction in enumerate(self.fractions, start=1):
            count = round(fraction * stop) - round(fraction * start)
            parts[order[taken : taken + count]] = part
            taken += count
        return parts
