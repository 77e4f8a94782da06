"""From raw blocks of a table to the numbers that SGD steps are taken in."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.errors import InputError
from linreg_pl.functional.standardize import Scaling

NUMBERS_AT_ONCE = 2**17  # whose intermediate results stay in a core's cache


def to_float32(
    batch: Batch, scaling: Scaling | None, names: Sequence[str], rounded: set[str], tell: Callable[[str], object]
) -> Tensor:
    """Return n raw rows as float32, ``(n, P + 1)`` or ``(n, P + 2)``: features, target and perhaps weight of each.

    Args:
        batch: the rows.
        scaling: by which the features are standardised, or None.
        names: of the columns of X, and of y.
        rounded: those whose large integers were rounded before; others are added.
        tell: is told of these.

    Raises:
        InputError: a value is too large for float32.
    """
    widths = [column.shape[1] for column in batch]
    numbers = torch.from_numpy(np.empty((len(batch.y), sum(widths)), np.float32))
    size = max(1, NUMBERS_AT_ONCE // sum(widths))
    for start in range(0, len(numbers), size):
        rows = slice(start, start + size)
        X, y, *weight = (column[rows] for column in batch)
        X = X if scaling is None else scaling.standardize(X)
        targets = numbers[rows].split(widths, dim=1)
        for column, target in zip((X, y, *weight), targets, strict=True):
            target.copy_(column)
        low, high = map(float, torch.aminmax(numbers[rows]))
        if not max(-low, high) <= 2**24:  # or infinite, or NaN for the targets of rows to predict
            _check(X, targets[0], names[:-1], rounded, tell)
            _check(y, targets[1], names[-1:], rounded, tell)
    return numbers


def _check(
    columns: Tensor, result: Tensor, names: Sequence[str], rounded: set[str], tell: Callable[[str], object]
) -> None:
    largest = max(map(abs, map(float, torch.aminmax(columns))))
    if largest > torch.finfo(torch.float32).max:
        row, column = result.isinf().nonzero()[0].tolist()
        raise InputError(
            f"column {names[column]!r}: {columns[row, column]:g} is too large for float32, which the steps are"
            " taken in; rescale the column"
        )
    if largest > 2**24:
        changed = (columns.abs() > 2**24) & (columns == columns.round()) & (columns != result)
        new = {names[column] for column in changed.any(dim=0).nonzero().flatten().tolist()} - rounded
        rounded |= new
        for name in sorted(new):
            tell(f"column {name!r}: integers beyond 2^24 are rounded to float32, which the steps are taken in\n")
