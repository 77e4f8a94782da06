"""Rows as the models meet them."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    import pyarrow as pa


class Batch(NamedTuple):
    """This process's rows of one mini-batch, or of one block."""

    X: Tensor  # (n, P)
    y: Tensor  # (n, 1)
    num_rows: int  # of the whole mini-batch, over all processes
    rows: Tensor | slice  # where the rows stand in their part
    weight: Tensor | None = None  # (n, 1), 1 on average over the training rows; None where all rows count alike
    ids: "pa.RecordBatch | None" = None  # columns that only travel along

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Features, targets and, where rows have weights, weights."""
        return (self.X, self.y) if self.weight is None else (self.X, self.y, self.weight)


class Share(NamedTuple):
    """The rows of one mini-batch that belong to this process."""

    rows: Tensor | slice
    num_rows: int  # of the whole mini-batch, over all processes


class Rows(Dataset[Batch]):
    """Rows in memory, fetched a mini-batch at a time by one indexing operation."""

    def __init__(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        self.X = X
        self.y = y
        self.weight = weight

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)

    def __getitem__(self, share: Share) -> Batch:
        """Fetch one process's share of a mini-batch."""
        rows, num_rows = share
        if isinstance(rows, slice):
            weight = None if self.weight is None else self.weight[rows]
            return Batch(self.X[rows], self.y[rows], num_rows, rows, weight)
        # Half as long as X[rows], which must find out first what rows are.
        weight = None if self.weight is None else self.weight.index_select(0, rows)
        return Batch(self.X.index_select(0, rows), self.y.index_select(0, rows), num_rows, rows, weight)
