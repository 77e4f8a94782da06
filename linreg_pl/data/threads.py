"""Threads that work on several pieces at a time, or read ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")


def parallel_map(pieces: Iterable[T], work: Callable[[T], U], num_threads: int | None = None) -> Iterator[U]:
    """Yield ``work(piece)`` for each piece, in order.

    Unless told otherwise, as many threads work as torch would use, each on a piece of its own, while the calling thread
    reads on. If all cores shared each small factorisation, they would mostly wait for each other. So torch works alone
    in these threads, and in the calling one uses those that are left.
    """
    available = torch.get_num_threads()
    num_threads = num_threads or available
    torch.set_num_threads(max(1, available - num_threads))
    try:
        # A new thread would have others help it, whatever the calling one does.
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            under_way: deque[Future[U]] = deque()
            for piece in pieces:
                under_way.append(workers.submit(work, piece))
                if len(under_way) > num_threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
    finally:
        torch.set_num_threads(available)
