"""Temporary files for what is read once from where it lies, and then several times from here."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from linreg_pl.errors import InputError
from linreg_pl.system import temporary_file

if TYPE_CHECKING:
    import pyarrow as pa

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Spooled(NamedTuple):
    """A temporary file, and what deletes it."""

    path: Path
    delete: Callable[[], None]


def spool(name: str, suffix: str, write: Callable[[Path], None]) -> Spooled:
    """Have a temporary file written.

    Args:
        name: what its content is made of, for messages.
        suffix: of its name, where it has one.
        write: writes to a path.

    Raises:
        InputError: there is no room for it.
    """
    path, delete = temporary_file(suffix)
    try:
        write(path)
    except BaseException as error:
        delete()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            folder, reason = tempfile.gettempdir(), os.strerror(error.errno)
            raise InputError(
                f"{name}: cannot be converted into a temporary file in {folder}: {reason}; set TMPDIR"
            ) from error
        raise
    return Spooled(path, delete)


def spool_batches(name: str, schema: "pa.Schema", batches: "Iterable[pa.RecordBatch | pa.Table]") -> Spooled:
    """Write rows into a temporary Arrow file; its arguments are those of `spool`."""
    import pyarrow as pa

    def write(path: Path) -> None:
        with pa.ipc.new_file(str(path), schema) as writer:
            for batch in batches:
                writer.write(batch)

    return spool(name, ".arrow", write)
