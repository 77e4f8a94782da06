"""Tables in files: CSV, Parquet and Feather files, and folders of them, read piece by piece. Needs no torch."""

import glob
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from linreg_pl.errors import InputError, suggestion
from linreg_pl.tables.csv_files import load_csv

if TYPE_CHECKING:
    import pyarrow as pa

NOT_UTF8 = "is not UTF-8 text: save the file as UTF-8"


def rows_at_once(num_columns: int) -> int:
    """Return the rows to read at once: few, so that several pieces fit in memory, but enough to cost little per row."""
    return min(2**17, max(2**15, 2**21 // num_columns))


@contextmanager
def _readable(name: str | Path) -> Iterator[None]:
    """Turn errors of reading a file into one sentence that names it."""
    import pyarrow as pa

    try:
        yield
    except PermissionError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{name}: {NOT_UTF8 if 'utf' in said.lower() else said}") from error


class Piece(NamedTuple):
    """Consecutive rows of a table."""

    start: int  # number of the first row in the table, counted from 0
    batch: "pa.RecordBatch"


class Source(ABC):
    """A table that can be read any number of times, in memory that does not grow with it.

    Attributes:
        name: name of the table in messages.
        schema: names and types of the columns.
        units: number of rows in each unit; units are what several processes divide among themselves.
    """

    name: str
    schema: "pa.Schema"
    units: Sequence[int]

    @property
    def num_rows(self) -> int:
        """Number of rows of the whole table."""
        return sum(self.units)

    @abstractmethod
    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield the rows of some units, at most `rows_at_once` at a time, with the number of their unit."""

    def kind(self, name: str) -> "pa.DataType":
        """Return the type of a column."""
        return self.schema.field(name).type

    def where(self, row: int) -> str:
        """Return the place of a row for a message; the first row is 1."""
        return f"row {row + 1}"

    def pieces(self, columns: Sequence[str], rank: int = 0, world_size: int = 1) -> Iterator[Piece]:
        """Yield the pieces of every ``world_size``-th unit, beginning with unit ``rank``, in order."""
        starts = [0, *accumulate(self.units)]
        done = dict.fromkeys(range(rank, len(self.units), world_size), 0)
        with _readable(self.name):
            for unit, batch in self.read(list(done), columns):
                batch.validate(full=True)
                yield Piece(starts[unit] + done[unit], batch)
                done[unit] += batch.num_rows
        if any(done[unit] != self.units[unit] for unit in done):
            raise InputError(f"{self.name}: is damaged: its number of rows is not the one that it declares")


class InMemory(Source):
    """A small table, held in memory."""

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

        # Without pre-buffering, and with a small buffer, not even one row group is held in memory.
        with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
            for unit in units:
                for batch in file.iter_batches(rows_at_once(len(columns)), [unit], list(columns)):
                    yield unit, batch
        pa.default_memory_pool().release_unused()


class ArrowFile(Source):
    """An Arrow IPC (Feather) file; its units are its record batches."""

    def __init__(self, path: Path, name: str = "") -> None:
        import pyarrow as pa

        self.name, self.path = name or str(path), path
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
    """Return the field of the first file that has values in this column."""
    import pyarrow as pa

    for source in sources:
        index = source.schema.get_field_index(field.name)
        if index >= 0 and not pa.types.is_null(source.schema.field(index).type):
            return source.schema.field(index)
    return field


class Files(Source):
    """Several files as one table, in the order in which they are given."""

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
        """Yield the rows of the units from the files that contain them."""
        first = 0
        for source in self.sources:
            mine = [unit - first for unit in units if first <= unit < first + len(source.units)]
            for unit, batch in source.read(mine, columns) if mine else ():
                yield first + unit, batch
            first += len(source.units)

    def kind(self, name: str) -> "pa.DataType":
        """Return the type of a column in all files, or text if its type differs between files."""
        import pyarrow as pa

        kinds = {source.schema.field(name).type for source in self.sources} - {pa.null()}
        return pa.string() if len(kinds) > 1 else kinds.pop() if kinds else pa.null()

    def where(self, row: int) -> str:
        """Return the file of a row and its place there, for a message."""
        for source in self.sources:
            if row < source.num_rows:
                break
            row -= source.num_rows
        return f"{source.name}, {source.where(row)}"


def open_table(path: str | Path, flag: str = "--data.path", categorical: Sequence[str] = ()) -> Source:
    """Open a CSV, Parquet or Feather file, or all such files in a folder or matching a pattern.

    Args:
        path: a file, whose suffix tells the format; a folder; or a pattern like ``houses/*.parquet``.
        flag: the flag that gave the path, for messages.
        categorical: columns in which ``01234`` of a CSV file is a text, not the number 1234.

    Raises:
        InputError: no such file, an unknown format, content of another format,
            no rows, or two columns with the same name.
    """
    text = str(path)
    if not text:
        raise InputError(f"{flag}: is empty; name a file, a folder or a pattern")
    if Path(path).is_dir():
        paths = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in OPENERS and file.is_file())
        nothing = "is a folder without CSV, Parquet or Feather files"
    elif glob.has_magic(text) and not Path(path).exists():
        paths = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207
        nothing = "no file matches this pattern"
    else:
        paths, nothing = [Path(path)], ""
    if not paths:
        raise InputError(f"{text}: {nothing} ({flag})")
    sources = [_open(file, flag, categorical) for file in paths]
    source = sources[0] if len(sources) == 1 else Files(text, sources)
    if source.num_rows == 0:
        raise InputError(f"{text}: has no rows")
    return source


def _open(path: Path, flag: str, categorical: Sequence[str]) -> Source:
    import pyarrow as pa

    if not path.exists():
        raise InputError(f"{path}: no such file ({flag})")
    if path.suffix.lower() not in OPENERS:
        raise InputError(f"{path}: {flag} must end in .csv, .parquet or .feather")
    with _readable(path):
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty")
        opener = OPENERS[path.suffix.lower()]
        source = _open_csv(path, categorical) if opener is _open_csv else opener(path)
        names = source.schema.names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are named {name!r}: rename all but one")
        if path.suffix.lower() == ".csv" and pa.types.is_binary(source.schema.field(name).type):
            raise InputError(f"{path}: column {name!r}: {NOT_UTF8}")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(f"{path}: one column named {names[0]!r}: separate the columns with commas")
    return source


def _open_csv(path: Path, categorical: Sequence[str] = ()) -> Source:
    import pyarrow as pa

    content = load_csv(path, categorical)
    if isinstance(content, pa.Table):
        return InMemory(str(path), content)
    source = ArrowFile(content.path, name=str(path))
    weakref.finalize(source, content.file.close)
    return source


OPENERS: dict[str, Callable[[Path], Source]] = {
    ".csv": _open_csv,
    ".parquet": Parquet,
    ".pq": Parquet,
    ".feather": ArrowFile,
    ".arrow": ArrowFile,
}


def require_columns(flag: str, wanted: Sequence[str], source: Source) -> None:
    """Raise InputError for the first wanted column that the table does not have, or that is named twice."""
    present = source.schema.names
    for name in wanted:
        if name not in present:
            hint = suggestion(name, present, "it has")
            raise InputError(f"{source.name}: has no column {name!r} ({flag}){hint}")
        if list(wanted).count(name) > 1:
            raise InputError(f"{flag}: names column {name!r} twice")
