"""Times that can be compared."""

import time
from collections.abc import Callable


def best_in_turns(
    works: dict[str, Callable[[], object]], repetitions: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Best seconds of each, taken in turns so that all see the same neighbours on the machine."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repetitions):
        for name, work in works.items():
            start = clock()
            work()
            best[name] = min(best[name], clock() - start)
    return best
