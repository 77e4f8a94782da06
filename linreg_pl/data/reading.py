"""From a file to columns of numbers, or to one sentence that says why not."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linreg_pl.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
U = TypeVar("U")


def rows_at_once(num_columns: int) -> int:
    """Rows of a piece: few enough for some of them to be in memory at once, enough to make the cost of each small."""
    return min(2**17, max(2**14, 2**21 // num_columns))


class Source(Protocol):
    """A table that can be read piece by piece, any number of times."""

    path: Path
    num_rows: int
    schema: "pa.Schema"

    def pieces(self, columns: Sequence[str]) -> Iterator["pa.RecordBatch"]:
        """Yield consecutive rows of some columns, not more than `rows_at_once` at a time."""


class InMemory:
    """A table that had to be read whole: CSV and Feather."""

    def __init__(self, path: Path, table: "pa.Table") -> None:
        self.path, self.table = path, table
        self.num_rows, self.schema = table.num_rows, table.schema

    def pieces(self, columns: Sequence[str]) -> Iterator["pa.RecordBatch"]:
        """Yield the table in slices."""
        table = self.table.select(list(columns))
        size = rows_at_once(len(columns))
        for start in range(0, self.num_rows, size):
            yield table.slice(start, size).combine_chunks().to_batches()[0]


class Parquet:
    """A Parquet file, read anew for every pass in memory that does not grow with it."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path = path
        with parquet.ParquetFile(path) as file:
            self.num_rows, self.schema = file.metadata.num_rows, file.schema_arrow

    def pieces(self, columns: Sequence[str]) -> Iterator["pa.RecordBatch"]:
        """Yield the file's row groups in slices."""
        from pyarrow import parquet

        # Without pre-buffering, and through a small buffer, not even a row group is kept in memory.
        with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
            yield from file.iter_batches(rows_at_once(len(columns)), columns=list(columns))


def open_table(path: Path) -> Source:
    """Open a CSV, Parquet or Feather file.

    Args:
        path: the file; its ending tells the format.

    Raises:
        InputError: no such file, a format that is not known or does not fit the content,
            no rows, or two columns of one name.
    """
    import pyarrow as pa

    if not path.exists():
        raise InputError(f"{path}: no such file (--data.path)")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; --data.path wants one CSV, Parquet or Feather file")
    try:
        source = _open(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    names = source.schema.names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are named {name!r}: rename all but one")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(f"{path}: one column named {names[0]!r}: separate the columns with commas")
    if source.num_rows == 0:
        raise InputError(f"{path}: has no rows")
    return source


def _open(path: Path) -> Source:
    match path.suffix.lower():
        case ".csv":
            return InMemory(path, _read_csv(path))
        case ".parquet" | ".pq":
            return Parquet(path)
        case ".feather" | ".arrow":
            from pyarrow import feather

            return InMemory(path, feather.read_table(path))
    raise InputError(f"{path}: --data.path must end in .csv, .parquet or .feather")


def _read_csv(path: Path) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty")
    try:
        return csv.read_csv(path)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):  # a header without an end of line
            raise InputError(f"{path}: has no rows") from error
        if re.search(r"Expected \d+ columns", str(error)):
            raise _ragged(path) from error
        if "conversion error" not in str(error):
            raise
        # A value does not fit the type its column began with. As text the table can be
        # read, and `numbers` names the row.
        names = csv.open_csv(path).schema.names
        options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
        return csv.read_csv(path, convert_options=options)


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


def ahead(pieces: Iterator[T]) -> Iterator[T]:
    """Yield the same pieces, each prepared by another thread while the one before is used.

    Meanwhile torch gets one thread less: sharing a core with the reader, all of its would wait.
    """
    threads = torch.get_num_threads()
    with _torch_threads(threads - 1), ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = reader.submit(next, pieces, None)
            yield piece


def worked_on(pieces: Iterator[T], work: Callable[[T], U]) -> Iterator[U]:
    """Yield what ``work`` makes of each piece, in their order.

    As many threads work as torch would use, each on a piece of its own, while this one
    reads on: cores that share one small factorisation would wait for each other.
    """
    threads = torch.get_num_threads()
    with _torch_threads(1), ThreadPoolExecutor(threads) as workers:
        under_way: deque[Future[U]] = deque()
        for piece in pieces:
            under_way.append(workers.submit(work, piece))
            if len(under_way) > 2 * threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_columns(flag: str, wanted: Sequence[str], source: Source) -> None:
    """Raise InputError for the first wanted column that is not there, or is wanted twice."""
    present = source.schema.names
    for name in wanted:
        if name not in present:
            near = get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, present))}"
            raise InputError(f"{source.path}: has no column {name!r} ({flag}); {hint}")
        if list(wanted).count(name) > 1:
            raise InputError(f"{flag}: names column {name!r} twice")


def numeric_names(source: Source) -> list[str]:
    """Names of the columns that hold numbers, be it as text or with a few faults."""
    texts = [field.name for field in source.schema if _is_text(field.type)]
    found = {field.name for field in source.schema if _is_numeric(field.type)}
    if texts:
        first = next(source.pieces(texts))
        for name in texts:
            sample = first.column(name).slice(0, 1000).drop_null().to_pylist()
            if any(_is_number(text) for text in sample):
                found.add(name)
    return [name for name in source.schema.names if name in found]


def _is_text(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_numeric(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return any(bool(test(kind)) for test in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers(source: Source, columns: Sequence[str]) -> Iterator[Tensor]:
    """Yield consecutive rows of some columns, shape ``(n, k)``, column after column in memory.

    They are float32 where the file has no column wider than that, else float64.

    Raises:
        InputError: a value is missing, not a number, not finite, or an integer that float64
            cannot hold; the message names the row, 1 being the first below the header.
    """
    from pyarrow import types

    kinds = [source.schema.field(name).type for name in columns]
    single = all(types.is_float32(kind) or types.is_float16(kind) for kind in kinds)
    start = 0
    for piece in source.pieces(columns):
        values = np.empty((len(columns), piece.num_rows), dtype=np.float32 if single else np.float64)
        for row, name in enumerate(columns):
            values[row] = _column(piece.column(name), f"{source.path}: column {name!r}", start)
        start += piece.num_rows
        yield torch.from_numpy(values).mT


def _column(column: "pa.Array", where: str, start: int) -> NDArray[np.floating]:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    def fault(row: int, what: str) -> InputError:
        return InputError(f"{where}, row {start + row + 1}: {what}")

    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise fault(row, "the value is missing; fill it in or remove the row")
    if _is_text(column.type):
        for row, text in enumerate(column.to_pylist()):
            if not _is_number(text):
                raise fault(row, f"{text!r} is not a number")
        values = np.array([float(text) for text in column.to_pylist()])
    elif not _is_numeric(column.type):
        raise InputError(f"{where} is of type {column.type}, not numbers")
    elif types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
    else:
        values = column.cast(pa.float64(), safe=False).to_numpy()
        if types.is_integer(column.type) and np.abs(values).max() >= 2**53:  # 2^53 + 1 was rounded to 2^53
            row = int(np.abs(values).argmax())
            raise fault(row, f"{column[row]} is beyond 2^53, where float64 skips integers; rescale the column")
    if not (finite := np.isfinite(values)).all():
        row = int(finite.argmin())
        raise fault(row, f"{values[row]} is not a finite number")
    return values
