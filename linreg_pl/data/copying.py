"""What is found of the training rows while they are copied into a file."""

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.data.threads import parallel_map
from linreg_pl.functional.factors import merge_shifted, shifted_factor
from linreg_pl.functional.stability import greatest_lengths
from linreg_pl.functional.standardize import Scaling, rough_scaling

ROUGH_ROWS = 2**12  # tell the scaling that rows are copied with, however the files of a table are cut
FACTORS_AT_ONCE = 16  # are merged


class Copying:
    """One pass over blocks of raw rows.

    Args:
        to_float32: turns raw rows into float32, scaled as it is told.
        standardize: whether a rough scaling is wanted.

    Attributes:
        scaling: with which the rows are copied; None if they stay as they are.
        factor: shifted factor of all rows; None if there are none.
        lengths: their `greatest_lengths`, as they are copied.
    """

    def __init__(self, to_float32: Callable[[Batch, Scaling | None], Tensor], standardize: bool) -> None:
        self.to_float32, self.standardize = to_float32, standardize
        self.scaling: Scaling | None = None
        self.factor: Tensor | None = None
        self.lengths = torch.zeros(2, dtype=torch.float64)

    def copied(self, blocks: Iterator[Callable[[], Batch]]) -> Iterator[Tensor]:
        """Yield the rows as they are copied."""
        first: list[Batch] = []
        while sum(len(block.y) for block in first) < ROUGH_ROWS and (make := next(blocks, None)):
            first.append(make())
        if self.standardize:
            self.scaling = rough_scaling(*(torch.cat(column)[:ROUGH_ROWS] for column in zip(*first, strict=True)))
        every: Iterator[Batch | Callable[[], Batch]] = chain(first, blocks)
        factors: list[Tensor] = []
        for factor, lengths, numbers in parallel_map(every, self._copy):
            factors.append(factor)
            self.lengths = torch.maximum(self.lengths, lengths)
            if len(factors) == FACTORS_AT_ONCE:
                factors = [merge_shifted(torch.stack(factors))]
            yield numbers
        self.factor = merge_shifted(torch.stack(factors)) if factors else None

    def _copy(self, block: Batch | Callable[[], Batch]) -> tuple[Tensor, Tensor, Tensor]:
        batch = block if isinstance(block, Batch) else block()
        numbers = self.to_float32(batch, self.scaling)
        return shifted_factor(*batch), greatest_lengths(numbers, batch.X.shape[1]), numbers
