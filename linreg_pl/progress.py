"""One bar for long work; nothing for short work, and nothing where no person is looking."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

DELAY = 3.0  # seconds before a bar appears


def bar(total: int | None, what: str) -> Any:
    """Return a bar with rows per second and time left, on a terminal and in the first process only.

    Args:
        total: rows to come, if known.
        what: a word for the work.
    """
    from tqdm import tqdm

    hidden = True if os.environ.get("LOCAL_RANK", "0") != "0" else None  # None: unless on a terminal
    return tqdm(total=total, desc=what, unit=" rows", unit_scale=True, delay=DELAY, leave=False, disable=hidden)


def watched(pieces: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Yield the pieces of a table and show how far they have come."""
    with bar(total, what) as shown:
        for piece in pieces:
            yield piece
            shown.update(piece.batch.num_rows)
