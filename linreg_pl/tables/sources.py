"""Tables that are read piece by piece, wherever they are. Needs no torch.

`linreg_pl.tables.places` finds files, and pyarrow's readers of single files read them: those of `pyarrow.dataset`
need memory that grows with the table.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

from linreg_pl.errors import InputError, suggestion
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.places import Place, readable

WHOLE_BYTES = 2**26  # of a row group that is read as a whole from another machine


def rows_at_once(num_columns: int) -> int:
    """Return the rows to read at once: few, so that several pieces fit in memory, but enough to cost little per row."""
    return min(2**17, max(2**15, 2**21 // num_columns))


class Piece(NamedTuple):
    """Consecutive rows of a table."""

    start: int  # number of the first row in the table, counted from 0
    batch: "pa.RecordBatch"


class Source(ABC):
    """A table that can be read any number of times, in memory that does not grow with it."""

    name: str  # in messages
    schema: "pa.Schema"
    units: Sequence[int]  # rows of each unit; units are what several processes divide among themselves

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

    def digest(self) -> str:
        """Return a hash of the rows where another process may have got other ones, else nothing."""
        return ""

    def pieces(self, columns: Sequence[str], rank: int = 0, world_size: int = 1) -> Iterator[Piece]:
        """Yield the pieces of every ``world_size``-th unit, beginning with unit ``rank``, in order."""
        starts = [0, *accumulate(self.units)]
        done = dict.fromkeys(range(rank, len(self.units), world_size), 0)
        with readable(self.name):
            for unit, batch in self.read(list(done), columns):
                batch.validate(full=True)
                yield Piece(starts[unit] + done[unit], batch)
                done[unit] += batch.num_rows
        if any(done[unit] != self.units[unit] for unit in done):
            raise InputError(f"{self.name}: is damaged: its number of rows is not the one that it declares")


class InMemory(Source):
    """A small table, held in memory."""

    def __init__(self, name: str, table: "pa.Table") -> None:
        self.name, self.table, self.schema = name, table.combine_chunks(), table.schema
        self.size = min(2**13, rows_at_once(table.num_columns or 1))
        self.units = [batch.num_rows for batch in self.table.to_batches(self.size)]

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield slices of the table."""
        batches = self.table.select(list(columns)).to_batches(self.size)
        for unit in units:
            yield unit, batches[unit]


class Parquet(Source):
    """A Parquet file; its units are its row groups."""

    def __init__(self, place: Place) -> None:
        self.name, self.place = place.name, place
        with place.open() as opened, pa.parquet.ParquetFile(opened) as file:
            self.schema = file.schema_arrow
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        self.units = [group.num_rows for group in groups]
        # Each request to another machine takes its time, so row groups that fit in memory are read as a whole.
        self.whole = place.remote and all(group.total_byte_size <= WHOLE_BYTES for group in groups)

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield slices of the row groups."""
        # Without pre-buffering, and with a small buffer, not even one row group is held in memory.
        buffer = max(2**20, WHOLE_BYTES // len(columns)) if self.place.remote else 2**20
        options = {"pre_buffer": self.whole, "buffer_size": min(buffer, 2**23)}
        with self.place.open() as opened, pa.parquet.ParquetFile(opened, **options) as file:
            for unit in units:
                for batch in file.iter_batches(rows_at_once(len(columns)), [unit], list(columns)):
                    yield unit, batch
        pa.default_memory_pool().release_unused()


class ArrowFile(Source):
    """An Arrow IPC (Feather) file; its units are its record batches."""

    def __init__(self, place: Place, volatile: bool = False) -> None:
        self.name, self.place, self.volatile = place.name, place, volatile
        with self._reader(None) as reader:
            self.schema = reader.schema
        with self._reader([0] if len(self.schema) else None) as reader:
            self.units = [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]

    @contextmanager
    def _reader(self, fields: list[int] | None) -> Iterator["pa.RecordBatchFileReader"]:
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        with self.place.open() as file, pa.ipc.open_file(file, options=options) as reader:
            yield reader

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield slices of the record batches."""
        size = rows_at_once(len(columns))
        with self._reader([self.schema.get_field_index(name) for name in columns]) as reader:
            for unit in units:
                batch = reader.get_batch(unit).select(list(columns))
                for start in range(0, batch.num_rows, size):
                    yield unit, batch.slice(start, size)

    def digest(self) -> str:
        """Return a hash of the rows if they were spooled from a database."""
        if not self.volatile:
            return ""
        result = hashlib.blake2b(digest_size=16)
        with self.place.open() as file:
            while content := file.read(2**20):
                result.update(content)
        return result.hexdigest()


class Files(Source):
    """Files as one table, in the order in which they are given.

    Args:
        name: of the table, for messages.
        sources: the files.
        told: columns that folders such as ``year=2024`` tell, with a value for each file. They count before columns of
            the same name in the files.
    """

    def __init__(self, name: str, sources: Sequence[Source], told: "Mapping[str, pa.Array]") -> None:
        self.name, self.sources, self.told = name, sources, told
        first = sources[0]
        own = [self._first_with_values(field) for field in first.schema if field.name not in told]
        self.schema = pa.schema([*own, *((name, values.type) for name, values in told.items())])
        self.units = [rows for source in sources for rows in source.units]
        for source in sources[1:]:
            for column in (field.name for field in own):
                if column not in source.schema.names:
                    raise InputError(f"{source.name}: has no column {column!r}, which {first.name} has")
                kinds = [which.schema.field(column).type for which in (first, source)]
                temporal = [pa.types.is_temporal(kind) for kind in kinds if not pa.types.is_null(kind)]
                if len(set(temporal)) > 1:
                    was = f"{kinds[1]}, but {kinds[0]} in {first.name}"
                    raise InputError(f"{source.name}: column {column!r} is of type {was}")

    def _first_with_values(self, field: "pa.Field") -> "pa.Field":
        """Return the field of the first file that has values in this column."""
        for source in self.sources:
            index = source.schema.get_field_index(field.name)
            if index >= 0 and source.schema.field(index).type != "null":
                return source.schema.field(index)
        return field

    def read(self, units: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
        """Yield the rows of the units from the files that contain them, with the values of their folders."""
        start = 0
        for number, source in enumerate(self.sources):
            mine = [unit - start for unit in units if start <= unit < start + len(source.units)]
            own = [name for name in columns if name not in self.told] or source.schema.names[:1]
            for unit, batch in source.read(mine, own) if mine else ():
                arrays = [
                    pa.repeat(self.told[name][number], batch.num_rows) if name in self.told else batch.column(name)
                    for name in columns
                ]
                yield start + unit, pa.RecordBatch.from_arrays(arrays, list(columns)) if self.told else batch
            start += len(source.units)

    def kind(self, name: str) -> "pa.DataType":
        """Return the type of a column in all files, or text if its type differs between files."""
        kinds = {source.schema.field(name).type for source in self.sources if name not in self.told} - {pa.null()}
        return pa.string() if len(kinds) > 1 else kinds.pop() if kinds else self.schema.field(name).type

    def where(self, row: int) -> str:
        """Return the place of a row in its file, which is named if there are others."""
        for source in self.sources:
            if row < source.num_rows:
                break
            row -= source.num_rows
        return source.where(row) if len(self.sources) == 1 else f"{source.name}, {source.where(row)}"


def require_columns(flag: str, wanted: Sequence[str], source: Source) -> None:
    """Raise InputError for the first wanted column that the table does not have, or that is named twice."""
    present = source.schema.names
    for name in wanted:
        if name not in present:
            raise InputError(f"{source.name}: has no column {name!r} ({flag}){suggestion(name, present, 'it has')}")
        if list(wanted).count(name) > 1:
            raise InputError(f"{flag}: names column {name!r} twice")
