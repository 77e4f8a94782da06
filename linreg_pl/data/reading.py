"""From a file to columns of numbers, or to one sentence that says why not."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from linreg_pl.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def read_table(path: Path) -> "pa.Table":
    """Read a CSV, Parquet or Feather file.

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
        table = _read(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: {names.count(name)} columns are named {name!r}: rename all but one")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(f"{path}: one column named {names[0]!r}: separate the columns with commas")
    if table.num_rows == 0:
        raise InputError(f"{path}: has no rows")
    return table


def _read(path: Path) -> "pa.Table":
    import pyarrow as pa

    match path.suffix.lower():
        case ".csv":
            from pyarrow import csv

            if path.stat().st_size == 0:
                raise InputError(f"{path}: is empty")
            try:
                return csv.read_csv(path)
            except pa.ArrowInvalid as error:
                if "conversion error" not in str(error):
                    raise
                # A value does not fit the type its column began with. As text the
                # table can be read, and `numeric_column` names the row.
                names = csv.open_csv(path).schema.names
                options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
                return csv.read_csv(path, convert_options=options)
        case ".parquet" | ".pq":
            from pyarrow import parquet

            return parquet.ParquetFile(path).read()
        case ".feather" | ".arrow":
            from pyarrow import feather

            return feather.read_table(path)
    raise InputError(f"{path}: --data.path must end in .csv, .parquet or .feather")


def require_columns(flag: str, wanted: Sequence[str], path: Path, present: Sequence[str]) -> None:
    """Raise InputError for the first wanted column that is not there, or is wanted twice."""
    for name in wanted:
        if name not in present:
            near = get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, present))}"
            raise InputError(f"{path}: has no column {name!r} ({flag}); {hint}")
        if list(wanted).count(name) > 1:
            raise InputError(f"{flag}: names column {name!r} twice")


def looks_numeric(column: "pa.ChunkedArray") -> bool:
    """Tell whether a column holds numbers, be it as text or with a few faults."""
    import pyarrow.types as kind

    if kind.is_string(column.type) or kind.is_large_string(column.type):
        sample = column.slice(0, 1000).drop_null().to_pylist()
        return any(_is_number(text) for text in sample)
    return any(
        is_kind(column.type) for is_kind in (kind.is_integer, kind.is_floating, kind.is_decimal, kind.is_boolean)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def numeric_column(table: "pa.Table", name: str, path: Path) -> NDArray[np.floating]:
    """Return one column as floats, shape ``(n,)``: float32 where the file has float32, else float64.

    Raises:
        InputError: a value is missing, not a number, not finite, or an integer that
            float64 cannot hold; the message names the row, 1 being the first below the header.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kind

    column = table.column(name)

    def fault(row: int, what: str) -> InputError:
        return InputError(f"{path}: column {name!r}, row {row + 1}: {what}")

    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise fault(row, "the value is missing; fill it in or remove the row")
    if kind.is_string(column.type) or kind.is_large_string(column.type):
        for row, text in enumerate(column.to_pylist()):
            if not _is_number(text):
                raise fault(row, f"{text!r} is not a number")
        values = np.array([float(text) for text in column.to_pylist()])
    elif not looks_numeric(column):
        raise InputError(f"{path}: column {name!r} is of type {column.type}, not numbers")
    elif kind.is_float32(column.type) or kind.is_float16(column.type):
        values = column.cast(pa.float32()).to_numpy()
    else:
        values = column.cast(pa.float64(), safe=False).to_numpy()
        if kind.is_integer(column.type) and np.abs(values).max() > 2**53:
            row = int(np.abs(values).argmax())
            raise fault(row, f"{column[row]} is beyond 2^53, where float64 skips integers; rescale the column")
    if not np.isfinite(values).all():
        row = int(np.isfinite(values).argmin())
        raise fault(row, f"{values[row]} is not a finite number")
    return values
