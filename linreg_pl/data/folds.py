"""Which fold of a cross-validation a row belongs to: a draw that depends on the seed and the row alone."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.data.sampling import seeded_generator
from linreg_pl.functional.factors import shifted_factor

BLOCK = 2**16  # rows that are drawn for together, equally many for each fold


class Folds:
    """Draws folds.

    Args:
        num_folds: K.
        seed: decides the draw.
        num_rows: rows of the table.
        by_group: whether rows with the same keys are in the same fold.
    """

    def __init__(self, num_folds: int, seed: int, num_rows: int, by_group: bool) -> None:
        self.num_folds, self.seed, self.num_rows, self.by_group = num_folds, seed, num_rows, by_group

    def draw(self, numbers: Tensor, keys: Sequence[Tensor]) -> Tensor:
        """Return the folds of some rows, int64, shape ``(n,)``.

        Args:
            numbers: of the rows in their table, increasing, shape ``(n,)``.
            keys: of their groups, int64, shape ``(n,)`` each.
        """
        if self.by_group:
            mixed = np.full(len(numbers), self.seed, np.uint64)
            for key in keys:
                mixed = _mixed(mixed ^ key.numpy().view(np.uint64))
            return torch.from_numpy((mixed % np.uint64(self.num_folds)).astype(np.int64))
        if not len(numbers):
            return numbers
        first, last = int(numbers[0]) // BLOCK, int(numbers[-1]) // BLOCK
        return torch.cat([self._block(block) for block in range(first, last + 1)])[numbers - first * BLOCK]

    def _block(self, block: int) -> Tensor:
        size = min(BLOCK, self.num_rows - block * BLOCK)
        return torch.randperm(size, generator=seeded_generator(self.seed, "folds", block)) % self.num_folds

    def factors(self, make: Callable[[], Batch]) -> Tensor:
        """Return the shifted factor of the rows of each fold of a block, ``(K, P + 3, P + 2)``."""
        batch = make()
        if batch.ids is None:
            assert isinstance(batch.rows, slice)
            numbers, keys = torch.arange(batch.rows.start, batch.rows.start + len(batch.y)), []
        else:
            numbers, *keys = (torch.tensor(column.to_numpy()) for column in batch.ids.columns)
        folds = self.draw(numbers, keys)
        order = torch.from_numpy(np.argsort(folds.numpy().astype(np.uint16), kind="stable"))  # of 16 bits: a radix sort
        counts = folds.bincount(minlength=self.num_folds).tolist()
        columns = [column.mT.index_select(1, order).mT.split(counts) for column in batch]
        return torch.stack([shifted_factor(*rows) for rows in zip(*columns, strict=True)])


def _mixed(x: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit numbers (SplitMix64; Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
