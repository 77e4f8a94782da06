"""Threads between a file and the model: what reads ahead, and what works on the pieces."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")


def ahead(pieces: Iterator[T]) -> Iterator[T]:
    """Yield the same pieces, each prepared by another thread while the one before is used.

    Meanwhile torch gets one thread less: sharing a core with the reader, all of its would wait.
    """
    threads = torch.get_num_threads()
    with _torch_threads(threads - 1), ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = reader.submit(next, pieces, None)
            yield piece


def worked_on(pieces: Iterator[T], work: Callable[[T], U]) -> Iterator[U]:
    """Yield what ``work`` makes of each piece, in their order.

    As many threads work as torch would use, each on a piece of its own, while this one
    reads on: cores that share one small factorisation would wait for each other.
    """
    threads = torch.get_num_threads()
    with _torch_threads(1), ThreadPoolExecutor(threads) as workers:
        under_way: deque[Future[U]] = deque()
        for piece in pieces:
            under_way.append(workers.submit(work, piece))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def return_memory() -> None:
    """Let large blocks go back to the system as soon as they are freed, instead of being kept for the next.

    Threads that each keep some would double the memory of a pass over a large table. Only glibc needs to be told.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        m_mmap_threshold = -3  # malloc.h
        library.mallopt(m_mmap_threshold, 2**20)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
