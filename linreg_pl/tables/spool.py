"""Temporary files for what is read once from where it lies, and then several times from here."""

import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from linreg_pl.errors import InputError
from linreg_pl.system import temporary_file
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.places import Place
from linreg_pl.tables.sources import ArrowFile

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)


def spool(name: str, suffix: str, write: Callable[[Path], None]) -> tuple[Path, Callable[[], None]]:
    """Have a temporary file written that is made of a named one; return its path and what deletes it.

    Raises:
        InputError: there is no room for it.
    """
    path, delete = temporary_file(suffix)
    try:
        write(path)
    except BaseException as error:
        delete()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            where = f"a temporary file in {tempfile.gettempdir()}: {os.strerror(error.errno)}"
            raise InputError(f"{name}: cannot be converted into {where}; set TMPDIR") from error
        raise
    return path, delete


def spool_batches(
    name: str, schema: "pa.Schema", batches: "Iterable[pa.RecordBatch | pa.Table]", volatile: bool = False
) -> ArrowFile:
    """Write rows into a temporary Arrow file, which lasts as long as the table that is returned.

    Raises:
        InputError: there is no room for it.
    """

    def write(path: Path) -> None:
        with pa.ipc.new_file(str(path), schema) as writer:
            for batch in batches:
                writer.write(batch)

    path, delete = spool(name, ".arrow", write)
    source = ArrowFile(Place(name, pa.fs.LocalFileSystem(), str(path)), volatile)
    weakref.finalize(source, delete)
    return source
