"""Rows as models get them: `Batch` unpacks as ``X, y``."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linreg_pl.functional.standardize import Scaling

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(init=False, eq=False)
class Batch:
    """This process's rows of one mini-batch, or of one block of a table.

    It unpacks as ``X, y``, or as ``X, y, weight`` where rows have weights. It is a dataclass, not a tuple, because
    Lightning and torch take tuples apart to convert their tensors, and put them together without what is known
    besides; of a dataclass they convert the fields that ``init`` is true for, and keep the others.

    Args:
        X: features, shape ``(n, P)``.
        y: targets, shape ``(n, 1)``.
        weight: weights of the rows, shape ``(n, 1)``, 1 on average over the training rows; None if all count alike.
        num_rows: rows of the whole mini-batch, over all processes; by default ``n``.
        rows: positions of the rows in their part.
        scaling: how the columns of X were standardised; None if they are raw.
        ids: columns that are only carried along.

    Example:
        >>> X, y = Batch(torch.zeros(3, 2), torch.zeros(3, 1))
    """

    X: Tensor
    y: Tensor
    weight: Tensor | None
    num_rows: int = field(init=False)
    rows: Tensor | slice | None = field(init=False)
    scaling: Scaling | None = field(init=False)
    ids: "pa.RecordBatch | None" = field(init=False)

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        weight: Tensor | None = None,
        *,
        num_rows: int | None = None,
        rows: Tensor | slice | None = None,
        scaling: Scaling | None = None,
        ids: "pa.RecordBatch | None" = None,
    ) -> None:
        self.X, self.y, self.weight = X, y, weight
        self.num_rows = len(y) if num_rows is None else num_rows
        self.rows, self.scaling, self.ids = rows, scaling, ids

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """``X, y``, and the weights if there are any."""
        return (self.X, self.y) if self.weight is None else (self.X, self.y, self.weight)

    def numbers_and_keys(self) -> tuple[Tensor, list[Tensor]]:
        """Return the numbers of a block's rows in their table, and the keys of their clusters or groups, if any."""
        if self.ids is None:
            assert isinstance(self.rows, slice)
            return torch.arange(self.rows.start, self.rows.start + len(self.y)), []
        numbers, *keys = (torch.tensor(column.to_numpy()) for column in self.ids.columns)
        return numbers, keys

    def __iter__(self) -> Iterator[Tensor]:
        """Unpack."""
        return iter(self.columns)

    def __len__(self) -> int:
        """Return the number of tensors, as that of a tuple."""
        return len(self.columns)

    def __getitem__(self, index: int) -> Tensor:
        """Return one of the tensors, as of a tuple."""
        return self.columns[index]

    def to(self, device: torch.device | str, **options: Any) -> "Batch":
        """Move the tensors to a device; Lightning asks for this."""
        return self.with_columns(*(column.to(device, **options) for column in self))

    def with_columns(self, X: Tensor, y: Tensor, weight: Tensor | None = None, **changed: Any) -> "Batch":
        """Return the same rows with other tensors."""
        known: dict[str, Any] = {"num_rows": self.num_rows, "rows": self.rows, "scaling": self.scaling, "ids": self.ids}
        return Batch(X, y, weight, **(known | changed))


class Rows:
    """Rows in memory, where all numbers of a row lie together, so that a random row is found by one cache miss.

    Args:
        numbers: features, target and perhaps weight of each row, shape ``(N, P + 1)`` or ``(N, P + 2)``.
        num_features: P.
        scaling: how the features were standardised.
    """

    def __init__(self, numbers: Tensor, num_features: int, *, scaling: Scaling | None = None) -> None:
        self.numbers = numbers
        self.num_features = num_features
        self.scaling = scaling

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.numbers)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """Fetch some rows: views of a slice, or copies."""
        # index_select is twice as fast as numbers[rows], which has to find out first what rows are
        numbers = self.numbers[rows] if isinstance(rows, slice) else self.numbers.index_select(0, rows)
        columns = numbers.split([self.num_features, *[1] * (numbers.shape[1] - self.num_features)], dim=1)
        if not isinstance(rows, slice):
            columns = [column.contiguous() for column in columns]
        return Batch(*columns, rows=rows, scaling=self.scaling)
