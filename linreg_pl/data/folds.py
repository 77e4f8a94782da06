"""Which fold of a cross-validation a row belongs to: a draw that depends on the seed and the row alone."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.data.sampling import BLOCK, seeded_generator
from linreg_pl.functional.factors import shifted_factor

GroupKeys = Callable[[], Iterator[Sequence[Tensor]]]


class Folds:
    """Draws folds, equally many rows of every 65536 for each.

    ``group_keys`` yields the keys of groups of all rows, int64, some rows at a time; rows with the same keys are then
    in the same fold. They are asked for once.
    """

    def __init__(self, num_folds: int, seed: int, num_rows: int, group_keys: GroupKeys | None = None) -> None:
        self.num_folds, self.seed, self.num_rows, self.group_keys = num_folds, seed, num_rows, group_keys
        self._lock = Lock()
        self._groups: np.ndarray | None = None

    def draw(self, numbers: Tensor, keys: Sequence[Tensor]) -> Tensor:
        """Return the folds of some rows, by their increasing numbers and their groups' keys: all int64 and ``(n,)``."""
        if self.group_keys is not None:
            with self._lock:
                if self._groups is None:
                    several = [np.unique(self._mixed(some)) for some in self.group_keys()]
                    self._groups = np.unique(np.concatenate(several))
            return torch.from_numpy(np.searchsorted(self._groups, self._mixed(keys)) % self.num_folds)
        if not len(numbers):
            return numbers
        first, last = int(numbers[0]) // BLOCK, int(numbers[-1]) // BLOCK
        return torch.cat([self._block(block) for block in range(first, last + 1)])[numbers - first * BLOCK]

    def _mixed(self, keys: Sequence[Tensor]) -> np.ndarray:
        """Return a number for each row that is the same for a group, and in whose order groups are dealt out.

        It mixes the bits of the keys (SplitMix64; Steele, Lea and Flood 2014).
        """
        mixed = np.full(len(keys[0]), self.seed, np.uint64)
        for key in keys:
            mixed ^= key.numpy().view(np.uint64)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return mixed

    @lru_cache(maxsize=8)  # noqa: B019
    def _block(self, block: int) -> Tensor:
        size = min(BLOCK, self.num_rows - block * BLOCK)
        return torch.randperm(size, generator=seeded_generator(self.seed, "folds", block)) % self.num_folds

    def factors(self, batch: Batch) -> Tensor:
        """Return the shifted factor of the rows of each fold of a block, ``(K, P + 3, P + 2)``."""
        folds = self.draw(*batch.numbers_and_keys())
        order = torch.from_numpy(np.argsort(folds.numpy().astype(np.uint16), kind="stable"))  # of 16 bits: a radix sort
        counts = folds.bincount(minlength=self.num_folds).tolist()
        columns = [column.mT.index_select(1, order).mT.split(counts) for column in batch]
        return torch.stack([shifted_factor(*rows) for rows in zip(*columns, strict=True)])
