"""Training rows in arrays, as scikit-learn's estimators take them."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.base import DataModule
from linreg_pl.data.batch import Batch
from linreg_pl.data.folds import Folds
from linreg_pl.data.loaders import Blocks
from linreg_pl.data.parts import Part
from linreg_pl.tables.sources import rows_at_once


class Arrays(DataModule):
    """Training rows in memory, after others of which only the factor is known.

    Attributes:
        arrays: features ``(n, P)``, targets ``(n, 1)`` and weights ``(n, 1)``, if any.
        earlier: triangular factor of the rows that came before, if any.
    """

    arrays: list[np.ndarray]
    earlier: Tensor | None = None
    target_name = "y"

    def delayed_blocks(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield what copies slices of the arrays, which may be strided or read-only."""
        size = rows_at_once(self.num_features + 1)
        for start in range(rank * size, self.num_rows(part), world_size * size):
            yield partial(self._batch, slice(start, start + size))

    def _batch(self, rows: slice) -> Batch:
        X, y, *weight = (torch.from_numpy(array[rows].copy()) for array in self.arrays)
        return Batch(X, y, *weight, rows=rows)

    def num_rows(self, part: Part) -> int:
        """Return the number of rows; all are for training."""
        return len(self.arrays[0]) if part == "train" else 0

    def _tell(self, message: str) -> None:
        """Print nothing: an estimator does not."""

    def empty_part_hint(self, part: Part) -> str:
        """Tell where rows come from."""
        return "pass some"

    def factors(self, part: Part, folds: Folds | None = None) -> Blocks[Tensor]:
        """Load the factor of the rows that came before, then those of the others."""
        factors = super().factors(part, folds)
        earlier = self.earlier
        return factors if earlier is None else Blocks(lambda: chain([earlier], factors))
