"""CSV files as Arrow tables, with a type for each column that fits all of its values."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from linreg_pl.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

LARGE = 2**26  # bytes; a larger file is converted block by block
OPEN_FILES = "/proc/self/fd"  # on Linux, where an open file needs no name


class ArrowCopy(NamedTuple):
    """A temporary Arrow file with the content of a CSV file; it is deleted when ``file`` is closed."""

    path: Path
    file: IO[bytes]


def load_csv(path: Path, categorical: Sequence[str] = ()) -> "pa.Table | ArrowCopy":
    """Read a small CSV file into memory; convert a large one, as it is read several times, and faster as Arrow.

    Args:
        path: the file.
        categorical: columns that stay text if one of their numbers begins with a needless zero, as codes do.

    Raises:
        InputError: no rows, rows of unequal length, an open quotation mark, or no room for the copy.
    """
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        if b"\0" in file.read(2**12):
            raise InputError(f"{path}: is not UTF-8 text: it contains zero bytes")
    try:
        types: dict[str, pa.DataType] = dict.fromkeys(_codes(path, categorical), pa.string())
        while True:  # until every column has a type that fits all its values
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            try:
                if path.stat().st_size <= LARGE:
                    return csv.read_csv(path, convert_options=options)
                return _convert(path, options)
            except pa.ArrowInvalid as error:
                found = re.search(r"In CSV column #(\d+): .*conversion error to (\w+)", str(error))
                if found is None or found[2] == "string":
                    raise
                name = csv.open_csv(path).schema.names[int(found[1])]
                types[name] = pa.float64() if found[2] == "int64" else pa.string()
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):  # a header without an end of line
            raise InputError(f"{path}: has no rows") from error
        if re.search(r"Expected \d+ columns", str(error)):
            raise _ragged(path) from error
        if "straddl" in str(error):
            raise InputError(f"{path}: a row is longer than 1 MiB: is a quotation mark left open?") from error
        raise


def _codes(path: Path, names: Sequence[str]) -> set[str]:
    """Return those columns in which a number begins with a needless zero."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    if not names:
        return set()
    names = [column.name for column in csv.open_csv(path).schema if column.name in names and column.type != pa.string()]
    if not names:  # all are text anyway, which saves a pass over the file
        return set()
    options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names)
    needless_zero = r"^\s*[+-]?0[0-9]+\s*$"
    found = set()
    with csv.open_csv(path, convert_options=options) as reader:
        for batch in reader:
            found |= {n for n in names if pc.any(pc.match_substring_regex(batch.column(n), needless_zero)).as_py()}
    return found


def _convert(path: Path, options: "csv.ConvertOptions") -> ArrowCopy:
    import pyarrow as pa
    from pyarrow import csv

    nameless = Path(OPEN_FILES).is_dir()  # a file without a name is not left behind even if this process is killed
    file = (tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile)(prefix="linreg_pl-", suffix=".arrow")
    copy = Path(OPEN_FILES, str(file.fileno())) if nameless else Path(file.name)
    try:
        with (
            csv.open_csv(path, csv.ReadOptions(block_size=2**23), convert_options=options) as reader,
            pa.ipc.new_file(str(copy), reader.schema) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowInvalid):
            folder, reason = tempfile.gettempdir(), os.strerror(error.errno) if error.errno else error
            raise InputError(
                f"{path}: cannot be converted into a temporary file in {folder}: {reason}; set TMPDIR"
            ) from error
        raise
    return ArrowCopy(copy, file)


def _ragged(path: Path) -> InputError:
    """Name the first row with too few or too many values; only a reader with one thread counts the rows."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False))
    except pa.ArrowInvalid as error:
        if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
            row, expected, actual = map(int, found.groups())
            return InputError(f"{path}: row {row - 1}: has {actual} values for {expected} columns")
    return InputError(f"{path}: has rows of unequal length")
