"""Rows of a table larger than memory, in a file of plain numbers, read back in any order.

Decoding a table takes longer than descending on it, and its row groups are too large to be
shuffled well. So the rows are written once, as the model wants them, into a file without a
name, in blocks of some 8 KiB. An epoch visits the blocks in random order, a thousand or more
at a time, and the rows of those in random order: even of a sorted table, so many blocks from
everywhere are a fair sample.
"""

import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from math import lcm, sqrt
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from linreg_pl.data.rows import Batch, Rows
from linreg_pl.data.sampling import Window, permutation, seeded_generator
from linreg_pl.data.threads import ahead
from linreg_pl.errors import InputError

BLOCK_BYTES = 2**13


class Spill:
    """A file of float32 rows, each of features, target and perhaps a weight.

    Args:
        path: where; the file is opened, or made, and may lose its name then.
        num_rows: rows it will have.
        num_features: columns of X.
        weighted: whether rows have weights.
        batch_size: rows in one mini-batch, over all processes.
        seed: shuffles the rows anew each epoch.
        window_bytes: about how much is read at a time.
    """

    def __init__(
        self,
        path: Path,
        num_rows: int,
        num_features: int,
        weighted: bool,
        batch_size: int,
        seed: int,
        window_bytes: int,
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.widths = (num_features, 1, 1) if weighted else (num_features, 1)
        self.row_bytes = 4 * sum(self.widths)
        self.block = max(1, min(BLOCK_BYTES // self.row_bytes, num_rows))
        # Windows hold whole mini-batches, and whole blocks too where that does not make them much larger.
        unit = lcm(self.block, batch_size)
        unit = unit if unit * self.row_bytes <= window_bytes else batch_size
        self.window = max(1, window_bytes // (unit * self.row_bytes)) * unit
        self.folder = path.parent
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.close = weakref.finalize(self, os.close, self.file)  # frees the space of a file without a name

    @property
    def worst_spread(self) -> float:
        """How much wider than by an independent shuffle the means of mini-batches spread if the table is sorted."""
        return sqrt(1 + self.batch_size * self.block / min(self.window, self.num_rows))

    def write(self, batches: Iterable[Batch]) -> None:
        """Write all rows, in the order of the table.

        Raises:
            InputError: there is no room for them.
        """
        size = self.num_rows * self.row_bytes
        if size > (room := shutil.disk_usage(self.folder).free):
            raise InputError(
                f"{self.folder}: the training rows need {size / 2**30:.2g} GiB while the fit lasts, and"
                f" {room / 2**30:.2g} GiB are left; set TMPDIR to a larger disk, or --data.memory above"
                f" {size // 2**20}"
            )
        rest = [np.empty((0, width), np.float32) for width in self.widths]
        with os.fdopen(os.dup(self.file), "r+b") as file:
            for batch in batches:
                arrays = [np.concatenate([old, new.numpy()]) for old, new in zip(rest, batch.columns, strict=True)]
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
            what = f"{self.folder}: the training rows cannot be written ({error.strerror})"
            raise InputError(f"{what}; set TMPDIR to a larger disk") from error

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield an epoch from the window with mini-batch ``first`` on, each read while the one before is used."""
        return ahead(self._windows(epoch, first))

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
            yield Window(Rows(*arrays), order, low // self.batch_size)

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
