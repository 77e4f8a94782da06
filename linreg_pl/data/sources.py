"""Tables on disk: CSV, Parquet and Feather files, folders of them, read piece by piece. Needs no torch."""

import glob
import os
import re
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from linreg_pl.errors import InputError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet", ".pq", ".feather", ".arrow")
NOT_UTF8 = "is not UTF-8 text: save the file as UTF-8"
NAMELESS = "/proc/self/fd/{}"  # of an open file, on Linux
LARGE_CSV = 2**26  # bytes; a larger one is read block by block


def rows_at_once(num_columns: int) -> int:
    """Rows of a piece: few enough for some of them to be in memory at once, enough to make the cost of each small."""
    return min(2**17, max(2**15, 2**21 // num_columns))


@contextmanager
def _readable(name: str | Path) -> Iterator[None]:
    """Say in one sentence what keeps a file from being read."""
    import pyarrow as pa

    try:
        yield
    except PermissionError as error:
        raise InputError(f"{name}: may not be read ({error.strerror})") from error
    except (UnicodeDecodeError, pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{name}: {NOT_UTF8 if 'utf' in said.lower() else said}") from error


class Piece(NamedTuple):
    """Consecutive rows of a table."""

    start: int  # the first one's number in the table, from 0
    batch: "pa.RecordBatch"


class Source(ABC):
    """A table that can be read any number of times, in memory that does not grow with it.

    Attributes:
        name: what it is called in messages.
        schema: names and types of its columns.
        units: rows of each of its units, which several processes share out.
    """

    name: str
    schema: "pa.Schema"
    units: Sequence[int]

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return sum(self.units)

    @abstractmethod
    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield rows of some units, not more than `rows_at_once` at a time, each time with the number of their unit."""

    def kind(self, name: str) -> "pa.DataType":
        """Type of a column that holds all its values."""
        return self.schema.field(name).type

    def where(self, row: int) -> str:
        """Say in a message where a row stands, 1 being the first."""
        return f"row {row + 1}"

    def pieces(self, columns: Sequence[str], rank: int = 0, world_size: int = 1) -> Iterator[Piece]:
        """Yield the pieces of every ``world_size``-th unit, in their order."""
        starts = [0, *accumulate(self.units)]
        done = dict.fromkeys(range(rank, len(self.units), world_size), 0)
        with _readable(self.name):
            for unit, batch in self.read(list(done), columns):
                batch.validate(full=True)
                yield Piece(starts[unit] + done[unit], batch)
                done[unit] += batch.num_rows
        if any(done[unit] != self.units[unit] for unit in done):
            raise InputError(f"{self.name}: is damaged: it has not as many rows as it says")


class InMemory(Source):
    """A small table, read whole."""

    def __init__(self, name: str, table: "pa.Table") -> None:
        self.name, self.table, self.schema = name, table, table.schema
        self.size = min(2**13, rows_at_once(table.num_columns or 1))
        self.units = [min(self.size, table.num_rows - start) for start in range(0, table.num_rows, self.size)]

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield slices of the table."""
        table = self.table.select(list(columns))
        for unit in units:
            yield unit, table.slice(unit * self.size, self.size).combine_chunks().to_batches()[0]


class Parquet(Source):
    """A Parquet file; its units are its row groups."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.name, self.path = str(path), path
        with parquet.ParquetFile(path) as file:
            self.schema = file.schema_arrow
            self.units = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield slices of the row groups."""
        import pyarrow as pa
        from pyarrow import parquet

        # Without pre-buffering, and through a small buffer, not even a row group is kept in memory.
        with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
            for unit in units:
                for batch in file.iter_batches(rows_at_once(len(columns)), [unit], list(columns)):
                    yield unit, batch
        pa.default_memory_pool().release_unused()


class ArrowFile(Source):
    """An Arrow IPC (Feather) file; its units are its record batches."""

    def __init__(self, name: str, path: Path) -> None:
        import pyarrow as pa

        self.name, self.path = name, path
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            self.schema = reader.schema
            batches = range(reader.num_record_batches)
        options = pa.ipc.IpcReadOptions(included_fields=[0] if len(self.schema) else [])
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file, options=options) as reader:
            self.units = [reader.get_batch(index).num_rows for index in batches]

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield slices of the record batches."""
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=[self.schema.get_field_index(name) for name in columns])
        size = rows_at_once(len(columns))
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file, options=options) as reader:
            for unit in units:
                batch = reader.get_batch(unit).select(list(columns))
                for start in range(0, batch.num_rows, size):
                    yield unit, batch.slice(start, size)


def _first_with_values(sources: Sequence[Source], field: "pa.Field") -> "pa.Field":
    """The field as the first file has it in which it is not all missing."""
    import pyarrow as pa

    for source in sources:
        index = source.schema.get_field_index(field.name)
        if index >= 0 and not pa.types.is_null(source.schema.field(index).type):
            return source.schema.field(index)
    return field


class Files(Source):
    """Several files as one table, in the order of their names."""

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        import pyarrow as pa

        self.name, self.sources = name, sources
        self.schema = pa.schema([_first_with_values(sources, field) for field in sources[0].schema])
        self.units = [rows for source in sources for rows in source.units]
        for source in sources[1:]:
            for column in self.schema.names:
                if column not in source.schema.names:
                    raise InputError(f"{source.name}: has no column {column!r}, which {sources[0].name} has")
                types = [which.schema.field(column).type for which in (sources[0], source)]
                temporal = [pa.types.is_temporal(kind) for kind in types if not pa.types.is_null(kind)]
                if len(set(temporal)) > 1:
                    raise InputError(
                        f"{source.name}: column {column!r} is of type {types[1]}, but {types[0]} in {sources[0].name}"
                    )

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield from each file that has some of the units."""
        first = 0
        for source in self.sources:
            mine = [unit - first for unit in units if first <= unit < first + len(source.units)]
            for unit, batch in source.read(mine, columns) if mine else ():
                yield first + unit, batch
            first += len(source.units)

    def kind(self, name: str) -> "pa.DataType":
        """Type of a column that holds its values in every file: text, where the files differ."""
        import pyarrow as pa

        kinds = {source.schema.field(name).type for source in self.sources} - {pa.null()}
        return pa.string() if len(kinds) > 1 else kinds.pop() if kinds else pa.null()

    def where(self, row: int) -> str:
        """Say in which file a row stands, and where."""
        for source in self.sources:
            if row < source.num_rows:
                break
            row -= source.num_rows
        return f"{source.name}, {source.where(row)}"


def open_table(path: str | Path, flag: str = "--data.path") -> Source:
    """Open a CSV, Parquet or Feather file, or all such files in a folder or of a glob.

    Args:
        path: a file, whose ending tells the format; a folder; or a pattern like ``houses/*.parquet``.
        flag: what the path was given by, for messages.

    Raises:
        InputError: no such file, a format that is not known or does not fit the content,
            no rows, or two columns of one name.
    """
    text = str(path)
    if not text:
        raise InputError(f"{flag}: is empty; name a file, a folder or a pattern")
    if Path(path).is_dir():
        paths = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        nothing = "is a folder without CSV, Parquet or Feather files"
    elif glob.has_magic(text) and not Path(path).exists():
        paths = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207
        nothing = "no file fits this pattern"
    else:
        paths, nothing = [Path(path)], ""
    if not paths:
        raise InputError(f"{text}: {nothing} ({flag})")
    sources = [_open(file, flag) for file in paths]
    source = sources[0] if len(sources) == 1 else Files(text, sources)
    if source.num_rows == 0:
        raise InputError(f"{text}: has no rows")
    return source


def _open(path: Path, flag: str) -> Source:
    import pyarrow as pa

    if not path.exists():
        raise InputError(f"{path}: no such file ({flag})")
    with _readable(path):
        if path.suffix.lower() in SUFFIXES and path.stat().st_size == 0:
            raise InputError(f"{path}: is empty")
        source = _by_suffix(path, flag)
        names = source.schema.names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are named {name!r}: rename all but one")
        if path.suffix.lower() == ".csv" and pa.types.is_binary(source.schema.field(name).type):
            raise InputError(f"{path}: column {name!r}: {NOT_UTF8}")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(f"{path}: one column named {names[0]!r}: separate the columns with commas")
    return source


def _by_suffix(path: Path, flag: str) -> Source:
    match path.suffix.lower():
        case ".csv":
            return _open_csv(path)
        case ".parquet" | ".pq":
            return Parquet(path)
        case ".feather" | ".arrow":
            return ArrowFile(str(path), path)
    raise InputError(f"{path}: {flag} must end in .csv, .parquet or .feather")


def _open_csv(path: Path) -> Source:
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        if b"\0" in file.read(2**12):
            raise InputError(f"{path}: is not UTF-8 text: it holds zero bytes")
    try:
        types: dict[str, pa.DataType] = {}
        while True:  # until every column has a type that fits all its values
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            try:
                if path.stat().st_size <= LARGE_CSV:
                    return InMemory(str(path), csv.read_csv(path, convert_options=options))
                return _converted(path, options)
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


def _converted(path: Path, options: "csv.ConvertOptions") -> Source:  # type: ignore[name-defined]  # noqa: F821
    """Turn a large CSV file into an Arrow file, block by block: it is read several times, and so much faster."""
    import pyarrow as pa
    from pyarrow import csv

    handle, temporary = tempfile.mkstemp(prefix="linreg_pl-", suffix=".arrow")
    place = Path(NAMELESS.format(handle))
    if place.exists():  # it needs no name, so no kill leaves it behind
        Path(temporary).unlink()
    else:
        place = Path(temporary)
    try:
        with (
            csv.open_csv(path, csv.ReadOptions(block_size=2**23), convert_options=options) as reader,
            pa.ipc.new_file(str(place), reader.schema) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
        source = ArrowFile(str(path), place)
    except BaseException as error:
        _discard(handle, Path(temporary))
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowInvalid):
            raise InputError(
                f"{path}: cannot be unpacked into {temporary}: {error.strerror or error}; set TMPDIR"
            ) from error
        raise
    weakref.finalize(source, _discard, handle, Path(temporary))
    return source


def _discard(handle: int, path: Path) -> None:
    os.close(handle)
    path.unlink(missing_ok=True)


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


def require_columns(flag: str, wanted: Sequence[str], source: Source) -> None:
    """Raise InputError for the first wanted column that is not there, or is wanted twice."""
    present = source.schema.names
    for name in wanted:
        if name not in present:
            near = nearest(name, present)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(map(repr, present[:20]))}"
            raise InputError(f"{source.name}: has no column {name!r} ({flag}); {hint}")
        if list(wanted).count(name) > 1:
            raise InputError(f"{flag}: names column {name!r} twice")
