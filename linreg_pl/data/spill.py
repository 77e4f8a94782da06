"""Rows of a table larger than memory, in a file of plain numbers that is read back in random order.

Decoding a table takes longer than the SGD steps on it, and its row groups are too large to be shuffled well. So
the rows are written once, as float32, into a temporary file, in blocks of some 8 KiB. An epoch reads the blocks in
random order, a thousand or more at a time, and shuffles the rows of those: blocks from everywhere are a fair sample,
even of a sorted table.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from math import lcm, sqrt
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
import torch
from lightning.pytorch.strategies import Strategy
from numpy.typing import NDArray

from linreg_pl.data.batch import Batch, Rows
from linreg_pl.data.loaders import Window
from linreg_pl.data.sampling import permutation, seeded_generator
from linreg_pl.data.threads import prefetch
from linreg_pl.errors import InputError
from linreg_pl.functional.standardize import Scaling

BLOCK_BYTES = 2**13


def temporary_path(strategy: Strategy | None) -> Path:
    """Return a path for temporary rows, the same for all processes."""
    token = uuid4().hex if strategy is None else strategy.broadcast(uuid4().hex)
    return Path(tempfile.gettempdir(), f"linreg_pl-{token}.rows")


class Spill:
    """A temporary file of float32 rows, each of features, target and perhaps a weight.

    Args:
        path: of the file, which is opened or created, and loses its name before it is filled, so that no kill
            leaves it behind.
        num_rows: rows it will have.
        widths: columns of X, of y, and of the weight if there is one.
        batch_size: rows in one mini-batch, over all processes.
        seed: shuffles the rows anew each epoch.
        window_bytes: how much is read at a time, about.
        scaling: how the columns of X are standardised.
    """

    def __init__(
        self,
        path: Path,
        num_rows: int,
        widths: tuple[int, ...],
        batch_size: int,
        seed: int,
        window_bytes: int,
        scaling: Scaling | None = None,
    ) -> None:
        self.path = path
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.widths = widths
        self.scaling = scaling
        self.row_bytes = 4 * sum(self.widths)
        self.block = max(1, min(BLOCK_BYTES // self.row_bytes, num_rows))
        # Windows hold whole mini-batches, and whole blocks too where that does not make them much larger.
        unit = lcm(self.block, batch_size)
        unit = unit if unit * self.row_bytes <= window_bytes else batch_size
        self.window = max(1, window_bytes // (unit * self.row_bytes)) * unit
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.close = weakref.finalize(self, os.close, self.file)  # frees the space of a file without a name

    @property
    def worst_spread(self) -> float:
        """How much wider than by an independent shuffle the means of mini-batches spread if the table is sorted."""
        return sqrt(1 + self.batch_size * self.block / min(self.window, self.num_rows))

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    def fill(self, batches: Iterable[Batch] | None, strategy: Strategy | None) -> None:
        """Let one process of this machine write all rows, and the others wait for it.

        Args:
            batches: the rows, in the order of the table; None for the processes that wait.
            strategy: by which the processes wait for each other; None for one process.

        Raises:
            InputError: there is no room for the rows.
        """
        if strategy is not None:
            strategy.barrier()  # all have opened the file
        if batches is not None:
            self.path.unlink()
            self.write(batches)
        if strategy is not None:
            strategy.barrier()

    def write(self, batches: Iterable[Batch]) -> None:
        """Write all rows, in the order of the table.

        Raises:
            InputError: there is no room for the rows.
        """
        size = self.num_rows * self.row_bytes
        if size > (room := shutil.disk_usage(self.path.parent).free):
            raise InputError(
                f"{self.path.parent}: the training rows need {size / 2**30:.2g} GiB while the fit lasts, and"
                f" {room / 2**30:.2g} GiB are left; set TMPDIR to a larger disk, or --data.memory above"
                f" {size // 2**20}"
            )
        rest = [np.empty((0, width), np.float32) for width in self.widths]
        with os.fdopen(os.dup(self.file), "r+b") as file:
            for batch in batches:
                arrays = [np.concatenate([old, new.numpy()]) for old, new in zip(rest, batch, strict=True)]
                count = len(arrays[0]) // self.block
                whole = [part[: count * self.block].reshape(count, self.block * part.shape[1]) for part in arrays]
                self._append(file, whole)
                rest = [array[count * self.block :] for array in arrays]
            self._append(file, [array.reshape(1, -1) for array in rest])
            assert file.tell() == self.num_rows * self.row_bytes

    def _append(self, file: BinaryIO, columns: list[NDArray[np.float32]]) -> None:
        try:
            file.write(np.concatenate(columns, axis=1).data)
        except OSError as error:
            what = f"{self.path.parent}: the training rows cannot be written ({error.strerror})"
            raise InputError(f"{what}; set TMPDIR to a larger disk") from error

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield an epoch from the window with mini-batch ``first`` on, each read while the one before is used."""
        return prefetch(self._windows(epoch, first))

    def _windows(self, epoch: int, first: int) -> Iterator[Window]:
        blocks = permutation(-(-self.num_rows // self.block), self.seed, epoch).numpy().astype(np.int64)
        counts = np.minimum(self.block, self.num_rows - blocks * self.block)
        ends = counts.cumsum()
        for number in range(first * self.batch_size // self.window, -(-self.num_rows // self.window)):
            low, high = number * self.window, min((number + 1) * self.window, self.num_rows)
            arrays = [torch.empty(high - low, width) for width in self.widths]
            start = low
            block = int(np.searchsorted(ends, low, side="right"))
            while start < high:
                stop = min(int(ends[block]), high)
                row = int(blocks[block]) * self.block + start - int(ends[block] - counts[block])
                self._read(row, [array[start - low : stop - low].numpy() for array in arrays])
                start, block = stop, block + 1
            order = torch.randperm(high - low, generator=seeded_generator(self.seed, "window", epoch, number))
            X, y, *weight = arrays
            yield Window(Rows(X, y, *weight, scaling=self.scaling), order, low // self.batch_size)

    def _read(self, row: int, targets: list[NDArray[np.float32]]) -> None:
        """Read rows of one block, which holds its features, then its targets, then its weights."""
        first = row - row % self.block
        rows, place = min(self.block, self.num_rows - first), first * self.row_bytes
        if len(targets[0]) == rows:
            os.preadv(self.file, [target.data.cast("B") for target in targets], place)
            return
        for width, target in zip(self.widths, targets, strict=True):
            os.preadv(self.file, [target.data.cast("B")], place + 4 * (row - first) * width)
            place += 4 * rows * width
