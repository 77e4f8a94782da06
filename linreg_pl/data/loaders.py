"""Loaders whose items come whole: mini-batches and blocks."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from linreg_pl.data.rows import Batch

T = TypeVar("T")


def unchanged(batch: T) -> T:
    """Collate nothing: a batch comes whole."""
    return batch


def plain_loader(batches: IterableDataset[T]) -> DataLoader[T]:
    """A loader of what comes in batches; it leaves the global generator alone."""
    return DataLoader(batches, batch_size=None, collate_fn=unchanged, generator=torch.Generator())


class Blocks(IterableDataset[T]):
    """Blocks of rows, from the start each time they are asked for."""

    def __init__(self, blocks: Callable[[], Iterator[T]]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[T]:
        """Yield the blocks."""
        return self.blocks()


class MiniBatchLoader(DataLoader[Batch]):
    """A loader whose items are mini-batches and need no more work."""

    def __iter__(self) -> Any:
        """Fetch them one after another, without the bookkeeping of torch's iterator, which is a tenth of a step."""
        return map(self.dataset.__getitem__, self.sampler)
