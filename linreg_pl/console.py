"""What is fit for a terminal."""

import os
import sys
from typing import TextIO

DIM, RED, GREEN, YELLOW = 2, 31, 32, 33


def printable(text: str) -> str:
    """Text without control characters, which could move a terminal's cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def styled(text: str, style: int, stream: TextIO | None = None) -> str:
    """Text in a colour where a person reads it: on a terminal, unless NO_COLOR is set (no-color.org)."""
    terminal = (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"
    return f"\x1b[{style}m{text}\x1b[0m" if terminal and text and not os.environ.get("NO_COLOR") else text
