"""Input errors, each reported in one sentence, and styled text on a terminal."""

import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

DIM, RED, GREEN, YELLOW = 2, 31, 32, 33
MAX_LENGTH = 1000  # of an error


class InputError(ValueError):
    """Wrong input; the message names the flag, file, column or row, and what to do.

    The command line prints the message on one line and exits with status 1. With
    ``LINREG_DEBUG=1`` it shows the traceback as well.
    """

    def __str__(self) -> str:
        """Return the message, whose commands are those of the entry point that runs."""
        return as_run(super().__str__())


def as_run(text: str) -> str:
    """Turn ``python train.py`` in a text into ``linreg``, unless that script is what runs."""
    if Path(sys.argv[0]).name == "train.py":
        return text
    return re.sub(r"--config configs/([\w/]+)\.yaml", r"--config \1", text.replace("python train.py", "linreg"))


def require_positive(flag: str, value: float) -> None:
    """Raise InputError unless ``value`` is a finite number above zero."""
    if not 0 < value < math.inf:
        raise InputError(f"{flag} {value}: must be a positive number")


def require_not_negative(flag: str, value: float) -> None:
    """Raise InputError unless ``value`` is a finite number, zero or above."""
    if not 0 <= value < math.inf:
        raise InputError(f"{flag} {value}: must be zero or a positive number")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar of some names, ignoring case, or None if none is similar."""
    folded = {other.casefold(): other for other in names}
    near = get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def suggestion(name: str, names: Sequence[str], listed: str = "") -> str:
    """Return what to add to the error that a name is unknown: the one that was meant.

    Where none is similar, it is those there are, after the words ``listed``, such as "it has"; without them nothing.
    """
    if near := nearest(name, names):
        return f"; did you mean {near!r}?"
    return f"; {listed} {', '.join(map(repr, names[:20]))}" if listed else ""


def describe_error(error: Exception) -> str:
    """Return the message of an error of the input, the disk or the memory."""
    if lacks_memory(error):
        return f"there is not enough memory: {error or 'raise the limit, or close other programs'}"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file cannot be read or written'}: {error.strerror or error}"
    return str(error)


def lacks_memory(error: Exception) -> bool:
    """Whether an error, of whatever kind, tells that there is not enough memory."""
    told = ("failed to map segment", "allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or any(words in str(error) for words in told)


def error_line(text: str) -> str:
    """Return the line that reports an error: without control characters, or the middle of a value that fills pages."""
    text = text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH // 2]} … {text[-MAX_LENGTH // 4 :]}"
    return f"{styled('error:', RED, sys.stderr)} {printable(text)}"


def printable(text: str) -> str:
    """Replace control characters, which could move a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def styled(text: str, style: int, stream: TextIO | None = None) -> str:
    """Colour a text if the stream is a terminal, unless NO_COLOR is set (no-color.org)."""
    terminal = (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"
    return f"\x1b[{style}m{text}\x1b[0m" if terminal and text and not os.environ.get("NO_COLOR") else text
