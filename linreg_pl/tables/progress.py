"""A progress bar for work that takes more than a few seconds, shown on terminals only."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

DELAY = 3.0  # seconds before a bar appears


def bar(total: int | None, what: str) -> Any:
    """Return a progress bar of rows, shown only on a terminal and only by the first process of a host."""
    from tqdm import tqdm

    hidden = True if os.environ.get("LOCAL_RANK", "0") != "0" else None  # None: unless on a terminal
    return tqdm(total=total, desc=what, unit=" rows", unit_scale=True, delay=DELAY, leave=False, disable=hidden)


def with_progress(pieces: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Yield the pieces of a table and count their rows on a progress bar."""
    with bar(total, what) as shown:
        for piece in pieces:
            yield piece
            shown.update(piece.batch.num_rows)
