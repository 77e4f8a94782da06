"""Rows of a table larger than memory, in a file of plain numbers that is read back in random order.

Decoding a table takes longer than the SGD steps on it, and its row groups are too large to be shuffled well. So
the rows are written once, as float32, into a temporary file. An epoch reads blocks of consecutive rows in random
order, some hundred at a time, and shuffles the rows of those: blocks from everywhere are a fair sample, even of a
sorted table.

When rows are written, the moments of their columns are not known yet. So they are written with the scaling of the
first block of the table, which may be a rough one, and get the right one when they are read.
"""

import math
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import lcm, sqrt
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linreg_pl.data.batch import Batch, Rows
from linreg_pl.data.loaders import Window
from linreg_pl.data.sampling import permutation, seeded_generator
from linreg_pl.data.threads import parallel_map
from linreg_pl.errors import InputError
from linreg_pl.functional.standardize import Scaling
from linreg_pl.system import delete_when_closed, open_temporary, read_at

BLOCK_BYTES = 2**14
PIECE_BYTES = 2**22
TILE = 32  # rows that are scaled as one, for loops over a few columns are slow


class Spill:
    """A temporary file of float32 rows, each of features, target and perhaps a weight.

    Every process of a machine opens it. When one writes it, it has no name any more, so that no kill leaves it behind.

    Args:
        path: of the file.
        num_rows: rows it will have.
        widths: columns of X, of y, and of the weight if there is one.
        batch_size: rows in one mini-batch, over all processes.
        seed: shuffles the rows anew each epoch.
        window_bytes: how much is read at a time, about.
    """

    scaling: Scaling | None = None  # of the columns of X when they are read; None if they are as they were written
    greatest_curvature = math.inf  # of a single row as SGD takes it, ``v |z|²``, or a bound
    _tile: tuple[Tensor, Tensor] | None = None

    def __init__(
        self, path: Path, num_rows: int, widths: tuple[int, ...], batch_size: int, seed: int, window_bytes: int
    ) -> None:
        self.path, self.num_rows, self.widths, self.batch_size, self.seed = path, num_rows, widths, batch_size, seed
        self.row_bytes = 4 * sum(widths)
        self.block = max(1, min(BLOCK_BYTES // self.row_bytes, num_rows))
        # Windows hold whole mini-batches, and whole blocks too where that does not make them much larger.
        unit = lcm(self.block, batch_size)
        unit = unit if unit * self.row_bytes <= window_bytes else batch_size
        self.window = max(1, window_bytes // (unit * self.row_bytes)) * unit
        self.file = open_temporary(path)
        self._lending = Lock()
        self._memory: list[tuple[NDArray[np.float32], weakref.ref[NDArray[np.float32]]]] = []
        self.close = weakref.finalize(self, os.close, self.file)  # frees the space of a file without a name

    @property
    def worst_spread(self) -> float:
        """How much wider than by an independent shuffle the means of mini-batches spread if the table is sorted."""
        return sqrt(1 + self.batch_size * self.block / min(self.window, self.num_rows))

    def rescale(self, earlier: Scaling, scaling: Scaling) -> None:
        """Have the columns of X, which an earlier scaling standardised, standardised anew when they are read."""
        # ((x - m) / s - (mean - m) / s) * s / scale  =  (x - mean) / scale, of many rows as if they were one
        (m, s), (mean, scale) = earlier, scaling
        offset, factor = torch.zeros(sum(self.widths)), torch.ones(sum(self.widths))
        offset[: len(m)], factor[: len(m)] = (mean - m) / s, s / scale
        self.scaling, self._tile = scaling, (offset.repeat(TILE), factor.repeat(TILE))

    def write(self, blocks: Iterable[Tensor]) -> None:
        """Write all rows as float32, in the order of the table, or raise InputError if there is no room for them."""
        delete_when_closed(self.path)
        size = self.num_rows * self.row_bytes
        if size > (room := shutil.disk_usage(self.path.parent).free):
            raise InputError(
                f"{self.path.parent}: the training rows need {size / 2**30:.2g} GiB while the fit lasts, and"
                f" {room / 2**30:.2g} GiB are left; set TMPDIR to a larger disk, or --data.memory above"
                f" {size // 2**20}"
            )
        with os.fdopen(os.dup(self.file), "r+b") as file:
            for numbers in blocks:
                try:
                    file.write(numbers.numpy().data)
                except OSError as error:
                    what = f"{self.path.parent}: the training rows cannot be written ({error.strerror})"
                    raise InputError(f"{what}; set TMPDIR to a larger disk") from error
            assert file.tell() == size

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield an epoch from the window with mini-batch ``first`` on, each read while the one before is used."""
        blocks = permutation(-(-self.num_rows // self.block), self.seed, epoch).numpy().astype(np.int64)
        counts = np.minimum(self.block, self.num_rows - blocks * self.block)
        ends = counts.cumsum()
        starts = ends - counts

        def read(number: int) -> Window:
            low, high = number * self.window, min((number + 1) * self.window, self.num_rows)
            # The places in the file of the rows low to high of the epoch, which may begin and end within a block.
            some = slice(int(np.searchsorted(ends, low, side="right")), int(np.searchsorted(ends, high)) + 1)
            begin = np.maximum(starts[some], low)
            place = blocks[some] * self.block + begin - starts[some]
            rows = self._read(place.tolist(), (np.minimum(ends[some], high) - begin).tolist())
            generator = seeded_generator(self.seed, "window", epoch, number)
            order = torch.randperm(high - low, generator=generator, dtype=torch.int32)
            return Window(rows, order, low // self.batch_size)

        numbers = range(first * self.batch_size // self.window, -(-self.num_rows // self.window))
        return parallel_map(numbers, read, num_threads=1)

    def in_order(self) -> Iterator[Callable[[], Batch]]:
        """Yield functions that read all rows in the order of the table, some at a time, for any thread to call."""
        step = max(1, PIECE_BYTES // self.row_bytes)

        def piece(start: int) -> Batch:
            return self._read([start], [min(step, self.num_rows - start)])[:]

        return (partial(piece, start) for start in range(0, self.num_rows, step))

    def _read(self, starts: list[int], counts: list[int]) -> Rows:
        """Read and scale some stretches of the file: at which row each starts, and how many rows it has."""
        num_rows, width = sum(counts), sum(self.widths)
        numbers = self._borrow(-(-num_rows // TILE) * TILE * width)
        view, place = numbers.numpy().data.cast("B"), 0
        for start, count in zip(starts, counts, strict=True):
            stop = place + count * self.row_bytes
            read_at(self.file, view[place:stop], start * self.row_bytes)
            place = stop
        if self._tile is not None:
            offset, factor = self._tile
            numbers.view(-1, TILE * width).sub_(offset).mul_(factor)
        return Rows(numbers[: num_rows * width].view(num_rows, width), self.widths[0], scaling=self.scaling)

    def _borrow(self, size: int) -> Tensor:
        """Return memory for float32 numbers, which was used before if nobody refers to it any more.

        The system takes longer to clear fresh memory than to read into it.
        """
        with self._lending:
            free = [array for array, borrowed in self._memory if borrowed() is None and len(array) >= size]
            array = min(free, key=len) if free else np.empty(size, np.float32)
            borrowed = array[:size]  # which the tensor holds on to
            others = [entry for entry in self._memory if entry[0] is not array]
            self._memory = [(array, weakref.ref(borrowed)), *others[:2]]
        return torch.from_numpy(borrowed)
