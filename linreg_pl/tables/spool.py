"""Temporary files for what is read once from where it lies, and then several times from here."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from linreg_pl.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

OPEN_FILES = "/proc/self/fd"  # on Linux, where an open file needs no name
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Spooled(NamedTuple):
    """A temporary file; it is deleted when ``file`` is closed."""

    path: Path
    file: IO[bytes]


def spool(name: str, suffix: str, write: Callable[[Path], None]) -> Spooled:
    """Have a temporary file written.

    Args:
        name: what its content is made of, for messages.
        suffix: of its name, where it has one.
        write: writes to a path.

    Raises:
        InputError: there is no room for it.
    """
    nameless = Path(OPEN_FILES).is_dir()  # a file without a name is not left behind even if this process is killed
    file = (tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile)(prefix="linreg_pl-", suffix=suffix)
    # By the number of this process, so that those that it starts find the file too.
    path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}") if nameless else Path(file.name)
    try:
        write(path)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            folder, reason = tempfile.gettempdir(), os.strerror(error.errno)
            raise InputError(
                f"{name}: cannot be converted into a temporary file in {folder}: {reason}; set TMPDIR"
            ) from error
        raise
    return Spooled(path, file)


def spool_batches(name: str, schema: "pa.Schema", batches: "Iterable[pa.RecordBatch | pa.Table]") -> Spooled:
    """Write rows into a temporary Arrow file; its arguments are those of `spool`."""
    import pyarrow as pa

    def write(path: Path) -> None:
        with pa.ipc.new_file(str(path), schema) as writer:
            for batch in batches:
                writer.write(batch)

    return spool(name, ".arrow", write)
