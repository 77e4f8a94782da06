"""Values of the columns of a table: as numbers, or as text where they are levels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from linreg_pl.errors import InputError
from linreg_pl.tables.sources import Piece, Source

if TYPE_CHECKING:
    import pyarrow as pa

TimeUnit = Literal["seconds", "minutes", "hours", "days"]
BEYOND = "is beyond 2^53, where float64 skips integers; rescale the column"
SECONDS: dict[TimeUnit, int] = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


def fault(source: Source, piece: Piece, name: str, row: int, what: str) -> InputError:
    """Return the error for a value, of a row that is counted from the beginning of the piece."""
    return InputError(f"{source.name}: column {name!r}, {source.where(piece.start + row)}: {what}")


def numbers(source: Source, piece: Piece, name: str, time_unit: TimeUnit) -> NDArray[np.floating]:
    """Return a column as numbers, with NaN for missing values.

    Raises:
        InputError: a value is not a number, or float64 cannot represent it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    column = decoded(piece.batch.column(name))
    kind = column.type
    if types.is_floating(kind):
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if is_text(kind):
        texts = column.to_pylist()
        try:
            return np.array([_parsed(source, piece, name, row, text) for row, text in enumerate(texts)])
        except InputError as error:
            if _mostly_numbers(texts):
                raise
            raise InputError(f"{error}; a feature that holds names can be --data.categorical") from error
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if is_time(kind):
        return _times(column, SECONDS[time_unit])
    if not is_numeric(kind):
        raise InputError(f"{source.name}: column {name!r} is of type {kind}, not numbers")
    values: NDArray[np.floating] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if types.is_integer(kind) and (large := np.abs(values) >= 2**53).any():  # 2^53 + 1 was rounded to 2^53
        row = int(large.argmax())
        raise fault(source, piece, name, row, f"{column[row]} {BEYOND}")
    if types.is_decimal(kind) and kind.precision > 15:
        back = pa.array(values, from_pandas=True).cast(kind, safe=False)
        differs = pc.not_equal(back, column).fill_null(False).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(differs).tolist():
            if len(column[row].as_py().normalize().as_tuple().digits) > 15:
                what = f"{column[row]} has more digits than float64 holds; round the column"
                raise fault(source, piece, name, row, what)
    return values


def _times(column: "pa.Array", seconds: int) -> NDArray[np.floating]:
    import pyarrow as pa
    from pyarrow import types

    if types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    absent = column.is_null().to_numpy(zero_copy_only=False)
    counts = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    whole, rest = np.divmod(counts, ticks * seconds)
    return np.where(absent, np.nan, whole + rest / (ticks * seconds))


def _parsed(source: Source, piece: Piece, name: str, row: int, text: str | None) -> float:
    if text is None or not text.strip():
        return np.nan
    if not _is_number(text):
        raise fault(source, piece, name, row, f"{text!r} is not a number")
    value = float(text)
    if abs(value) >= 2**53 and text.strip().lstrip("+-").isdigit():
        raise fault(source, piece, name, row, f"{text} {BEYOND}")
    return value


def decoded(column: "pa.Array") -> "pa.Array":
    """Return a column without dictionary encoding."""
    from pyarrow import types

    return column.dictionary_decode() if types.is_dictionary(column.type) else column


def is_missing(column: "pa.Array") -> NDArray[np.bool_]:
    """Return which values of a categorical column are missing."""
    return column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def as_text(column: "pa.Array") -> "pa.Array":
    """Return the values of a categorical column as text, which is how its levels are named."""
    import pyarrow as pa

    return decoded(column).cast(pa.string())


def find_levels(seen: Mapping[str, "pa.Array"]) -> dict[str, list[str]]:
    """Return the levels of categorical columns as text, sorted by their values.

    Args:
        seen: the distinct values of each column, of the column's own type, without missing values.
    """
    import pyarrow.compute as pc

    return {name: as_text(values.take(pc.array_sort_indices(values))).to_pylist() for name, values in seen.items()}


def numeric_names(source: Source) -> list[str]:
    """Return the names of the numeric columns; a column of text is one if half of its first 1000 values are numbers."""
    texts = [column.name for column in source.schema if is_text(column.type)]
    found = {column.name for column in source.schema if is_numeric(column.type)}
    if texts:
        first = next(source.pieces(texts)).batch
        for name in texts:
            if _mostly_numbers(first.column(name).slice(0, 1000).to_pylist()):
                found.add(name)
    return [name for name in source.schema.names if name in found]


def described(source: Source) -> str:
    """Return the names and types of the columns, for messages."""
    return ", ".join(f"{column.name!r} ({column.type})" for column in list(source.schema)[:20])


def can_be_levels(kind: "pa.DataType") -> bool:
    """Return whether a column of this type can be categorical."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return is_text(kind) or is_numeric(kind) or is_time(kind) or bool(types.is_time(kind) or types.is_null(kind))


def is_text(kind: "pa.DataType") -> bool:
    """Return whether a type is text."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_time(kind: "pa.DataType") -> bool:
    """Return whether a type is a date or a timestamp."""
    from pyarrow import types

    return bool(types.is_timestamp(kind) or types.is_date(kind))


def is_numeric(kind: "pa.DataType") -> bool:
    """Return whether a type is a number type or boolean."""
    from pyarrow import types

    return any(bool(test(kind)) for test in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean))


def is_single(kind: "pa.DataType") -> bool:
    """Return whether a type is a floating-point number that float32 holds."""
    from pyarrow import types

    return bool(types.is_float32(kind) or types.is_float16(kind))


def _mostly_numbers(texts: Sequence[str | None]) -> bool:
    present = [text for text in texts if text is not None and text.strip().lower() not in ("", "nan")]
    return bool(present) and 2 * sum(map(_is_number, present)) >= len(present)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python accepts 1_000
