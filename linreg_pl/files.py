"""Files that are there whole or not at all."""

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from linreg_pl.errors import InputError


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that no kill, no full disk and no loss of power leaves half of it, or costs the one before it.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.parent / f".{path.name}.tmp"
    try:
        temporary.write_bytes(content)
        finish(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def csv_bytes(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Rows as CSV, under the names of all their columns; empty where a row has none of a name."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def copy_whole(source: Path, path: Path) -> None:
    """Let a path hold at once what the source holds: as another name of it, or as a copy where that cannot be."""
    temporary = path.parent / f".{path.name}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        _sync(temporary)
    os.replace(temporary, path)


def finish(temporary: Path, path: Path) -> None:
    """Give a file that is written its name, once it is on the disk; both names are on the same one.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
