"""Which rows come when.

The order of the rows is a pure function of (seed, epoch). Mini-batch ``t`` of an epoch
is rows ``order[t * batch_size : (t + 1) * batch_size]``, over all processes; process
``rank`` takes every ``world_size``-th of them. So the number of processes does not
change a mini-batch, and the position in the epoch is all the state there is.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, SequentialSampler


class Share(NamedTuple):
    """The rows of one mini-batch that belong to this process."""

    rows: Tensor | slice
    num_rows: int  # of the whole mini-batch, over all processes


class Chunk(NamedTuple):
    """This process's rows of many consecutive mini-batches."""

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
        self._coming: dict[int, Future[Tensor]] = {}

    def of(self, epoch: int) -> Tensor:
        """Order of the rows in an epoch, shape ``(num_rows,)``."""
        if self.seed is None:
            return torch.arange(self.num_rows)
        coming = self._coming.pop(epoch, None)
        order = permutation(self.num_rows, self.seed, epoch) if coming is None else coming.result()
        self._coming = {epoch + 1: self._thread.submit(permutation, self.num_rows, self.seed, epoch + 1)}
        return order


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


class Chunks(IterableDataset[Chunk]):
    """The share of this process in an epoch's mini-batches, many mini-batches at a time.

    Args:
        batches: the mini-batches; its ``position`` counts mini-batches here too.
        steps: mini-batches in a chunk.
        divisor: a chunk also ends where the number of steps since the start of training is a
            multiple of this, if not 0.
    """

    def __init__(self, batches: MiniBatches, steps: int, divisor: int = 0) -> None:
        self.batches = batches
        self.steps = steps
        self.divisor = divisor

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks from the current position to the end of the epoch."""
        b = self.batches
        epoch, done = b.position()
        order = b.orders.of(epoch)
        size = len(range(b.rank, b.batch_size, b.world_size))
        while done < len(b):
            steps = min(self.steps, len(b) - done)
            if self.divisor:
                steps = min(steps, self.divisor - (epoch * len(b) + done) % self.divisor)
            rows = order[done * b.batch_size : (done + steps) * b.batch_size]
            counts = torch.full((steps,), b.batch_size)
            counts[-1] = len(rows) - (steps - 1) * b.batch_size
            if b.world_size > 1:
                rows = torch.cat([batch[b.rank :: b.world_size] for batch in rows.split(b.batch_size)])
            yield Chunk(rows, size, counts)
            done += steps
