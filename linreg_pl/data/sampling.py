"""The order of the rows, and which of them are held out or drawn.

The order of the rows is a pure function of (seed, epoch). Mini-batch ``t`` of an epoch
is rows ``order[t * batch_size : (t + 1) * batch_size]``, over all processes; process
``rank`` takes every ``world_size``-th of them. So the number of processes does not
change a mini-batch, and the position in the epoch is all the state there is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from linreg_pl.data.batch import Batch

BLOCK = 2**16  # rows that are drawn for together


@dataclass
class Sample:
    """A random sample of the rows, drawn from the blocks of a table while they are read.

    The same rows are drawn whichever process reads a block, and however often.
    """

    share: float  # of the rows to draw
    seed: int
    blocks: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)  # columns drawn, by the block's first row

    def add(self, batch: Batch) -> Batch:
        """Draw some rows of a block, and return the block."""
        assert isinstance(batch.rows, slice)
        start, length = batch.rows.start, len(batch.y)
        if start not in self.blocks:
            generator = seeded_generator(self.seed, "sample", start)
            draws = torch.rand(int(self.share * length) + 2, generator=generator, dtype=torch.float64)
            count = min(int(self.share * length + draws[-1]), length)
            taken = ((torch.arange(count) + draws[:count]) * (length / max(count, 1))).long().clamp_(max=length - 1)
            if count:
                self.blocks[start] = tuple(column[taken] for column in batch)
        return batch

    def columns(self) -> list[Tensor]:
        """Features ``(n, P)``, targets ``(n, 1)`` and perhaps weights ``(n, 1)``, in the order of the rows, float64."""
        blocks = [self.blocks[start] for start in sorted(self.blocks)]
        return [torch.cat(column).double() for column in zip(*blocks, strict=True)]


def seeded_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on a key alone, such as ``(seed, "order", epoch)``, not on global state."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def permutation(num_rows: int, seed: int, epoch: int) -> Tensor:
    """Order of the rows in an epoch, shape ``(num_rows,)``; int32 where that is wide enough, which is faster."""
    dtype = torch.int32 if num_rows < 2**31 else torch.int64
    return torch.randperm(num_rows, generator=seeded_generator(seed, "order", epoch), dtype=dtype)


@dataclass(eq=False)
class Split:
    """Which rows are held out: the same share of every 65536 consecutive rows, drawn at random.

    The rows after the last whole 65536 belong to those before.
    """

    num_rows: int  # of the table
    fractions: Sequence[float]  # share of each part that is held out
    seed: int

    def counts(self) -> list[int]:
        """Rows of each part held out."""
        return [round(fraction * self.num_rows) for fraction in self.fractions]

    def parts(self, start: int, stop: int) -> Tensor:
        """Part of each of some consecutive rows, ``(stop - start,)``: 0 for training, then as in ``fractions``."""
        first = min(start // BLOCK, self._last)
        blocks = [self._block(block) for block in range(first, min(-(-stop // BLOCK), self._last + 1))]
        return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK]

    @property
    def _last(self) -> int:
        return max(1, self.num_rows // BLOCK) - 1

    @lru_cache(maxsize=4)  # noqa: B019
    def _block(self, block: int) -> Tensor:
        start, stop = block * BLOCK, self.num_rows if block == self._last else (block + 1) * BLOCK
        order = torch.randperm(stop - start, generator=seeded_generator(self.seed, "split", block))
        parts = torch.zeros(stop - start, dtype=torch.uint8)
        taken = 0
        for part, fraction in enumerate(self.fractions, start=1):
            count = round(fraction * stop) - round(fraction * start)
            parts[order[taken : taken + count]] = part
            taken += count
        return parts
