"""From raw blocks of a table to the numbers that SGD steps are taken in."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.errors import InputError
from linreg_pl.functional.standardize import Scaling


class Transform:
    """Turns raw rows into float32, and standardises the features.

    Args:
        features: names of the columns of X.
        target: name of y.
    """

    def __init__(self, features: Sequence[str], target: str) -> None:
        self.features = features
        self.target = target
        self._rounded: set[str] = set()

    def __call__(self, batch: Batch, scaling: Scaling | None, tell: Callable[[str], object]) -> Batch:
        """Return a block of raw rows as float32, standardised unless ``scaling`` is None.

        Args:
            batch: the rows.
            scaling: mean and standard deviation of the features, or None.
            tell: is told, once for each column, that its large integers are rounded.

        Raises:
            InputError: a value is too large for float32.
        """
        X, y, *weight = batch
        X = self._to_float32(X if scaling is None else scaling.standardize(X), self.features, tell)
        y = self._to_float32(y, [self.target], tell)
        return batch.with_columns(X, y, *(column.float() for column in weight), scaling=scaling)

    def _to_float32(self, columns: Tensor, names: Sequence[str], tell: Callable[[str], object]) -> Tensor:
        result = columns.float()
        if columns.dtype == torch.float32 or len(columns) == 0:
            return result
        largest = max(map(abs, map(float, torch.aminmax(columns))))
        if largest > torch.finfo(torch.float32).max:
            row, column = result.isinf().nonzero()[0].tolist()
            raise InputError(
                f"column {names[column]!r}: {columns[row, column]:g} is too large for float32, which the steps are"
                " taken in; rescale the column"
            )
        if largest > 2**24:
            rounded = (columns.abs() > 2**24) & (columns == columns.round()) & (columns != result)
            new = {names[column] for column in rounded.any(dim=0).nonzero().flatten().tolist()} - self._rounded
            self._rounded |= new
            for name in sorted(new):
                tell(f"column {name!r}: integers beyond 2^24 are rounded to float32, which the steps are taken in\n")
        return result
