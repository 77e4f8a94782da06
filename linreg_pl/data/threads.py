"""Threads that read ahead, and that work on several pieces at a time."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")


def prefetch(pieces: Iterator[T]) -> Iterator[T]:
    """Yield the same pieces; another thread makes the next one while one is used.

    Meanwhile torch uses one thread less: all of its threads would wait for the one that shares a core with the reader.
    """
    with _workers(1, torch.get_num_threads() - 1) as reader:
        coming = reader.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = reader.submit(next, pieces, None)
            yield piece


def parallel_map(pieces: Iterator[T], work: Callable[[T], U]) -> Iterator[U]:
    """Yield ``work(piece)`` for each piece, in order.

    As many threads work as torch would use, each on a piece of its own, while the calling thread reads on.
    If all cores shared each small factorisation, they would mostly wait for each other.
    """
    threads = torch.get_num_threads()
    with _workers(threads, 1) as workers:
        under_way: deque[Future[U]] = deque()
        for piece in pieces:
            under_way.append(workers.submit(work, piece))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


@contextmanager
def _workers(count: int, torch_threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch works alone, while it uses so many threads in the calling one."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, torch_threads))
    try:
        # A new thread would have others help it, whatever the calling one does.
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers
    finally:
        torch.set_num_threads(before)
