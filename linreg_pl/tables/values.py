"""Values of the columns of a table: as numbers, or as text where they are levels."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linreg_pl.errors import InputError
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.sources import Piece, Source

TimeUnit = Literal["seconds", "minutes", "hours", "days"]
BEYOND = "is beyond 2^53, where float64 skips integers; rescale the column"
NUMPY_UNITS: dict[TimeUnit, Literal["s", "m", "h", "D"]] = {"seconds": "s", "minutes": "m", "hours": "h", "days": "D"}


def fault(source: Source, piece: Piece, name: str, row: int, what: str) -> InputError:
    """Return the error for a value, of a row that is counted from the beginning of the piece."""
    return InputError(f"{source.name}: column {name!r}, {source.where(piece.start + row)}: {what}")


def numbers(source: Source, piece: Piece, name: str, time_unit: TimeUnit) -> NDArray[np.floating]:
    """Return a column as numbers, with NaN for missing values.

    Raises:
        InputError: a value is not a number, or float64 cannot represent it.
    """
    column = decoded(piece.batch.column(name))
    kind = column.type
    if pa.types.is_floating(kind):
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if is_text(kind):
        return _parsed(source, piece, name, column.to_pylist())
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if is_time(kind):
        return _since_1970(column, np.timedelta64(1, NUMPY_UNITS[time_unit]))
    if not is_numeric(kind):
        raise InputError(f"{source.name}: column {name!r} is of type {kind}, not numbers")
    values: NDArray[np.floating] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind) and (large := np.abs(values) >= 2**53).any():  # 2^53 + 1 was rounded to 2^53
        row = int(large.argmax())
        raise fault(source, piece, name, row, f"{column[row]} {BEYOND}")
    if pa.types.is_decimal(kind) and kind.precision > 15:
        back = pa.array(values, from_pandas=True).cast(kind, safe=False)
        differs = pa.compute.not_equal(back, column).fill_null(False).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(differs).tolist():
            if len(column[row].as_py().normalize().as_tuple().digits) > 15:
                what = f"{column[row]} has more digits than float64 holds; round the column"
                raise fault(source, piece, name, row, what)
    return values


def _since_1970(column: "pa.Array", unit: np.timedelta64) -> NDArray[np.floating]:
    times = column.to_numpy(zero_copy_only=False) - np.datetime64(0, "s")
    with np.errstate(invalid="ignore"):  # of missing values
        whole, rest = np.divmod(times, unit)  # float64 would round nanoseconds
    return whole + rest / unit  # type: ignore[no-any-return]


def _parsed(source: Source, piece: Piece, name: str, texts: Sequence[str | None]) -> NDArray[np.floating]:
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is None or not text.strip():
            continue
        if not _is_number(text):
            what = f"{text!r} is not a number"
        elif abs(value := float(text)) >= 2**53 and text.strip().lstrip("+-").isdigit():
            what = f"{text} {BEYOND}"
        else:
            values[row] = value
            continue
        hint = "" if _mostly_numbers(texts) else "; a feature that holds names can be --data.categorical"
        raise fault(source, piece, name, row, what + hint)
    return values


def decoded(column: "pa.Array") -> "pa.Array":
    """Return a column without dictionary encoding."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def is_missing(column: "pa.Array") -> NDArray[np.bool_]:
    """Return which values of a categorical column are missing."""
    return column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def as_text(column: "pa.Array") -> "pa.Array":
    """Return the values of a categorical column as text, which is how its levels are named."""
    return decoded(column).cast("string")


def find_levels(seen: Mapping[str, "pa.Array"]) -> dict[str, list[str]]:
    """Return the levels of categorical columns, of which these are the distinct values, as text in their order."""
    order = {name: pa.compute.array_sort_indices(values) for name, values in seen.items()}
    return {name: as_text(values.take(order[name])).to_pylist() for name, values in seen.items()}


def numeric_names(source: Source) -> list[str]:
    """Return the names of the numeric columns; a column of text is one if half of its first 1000 values are numbers."""
    texts = [column.name for column in source.schema if is_text(column.type)]
    found = {column.name for column in source.schema if is_numeric(column.type)}
    if texts:
        first = next(source.pieces(texts)).batch.slice(0, 1000)
        found |= {name for name in texts if _mostly_numbers(first.column(name).to_pylist())}
    return [name for name in source.schema.names if name in found]


def described(source: Source) -> str:
    """Return the names and types of the columns, for messages."""
    return ", ".join(f"{column.name!r} ({column.type})" for column in list(source.schema)[:20])


def can_be_levels(kind: "pa.DataType") -> bool:
    """Return whether a column of this type can be categorical."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_text(kind) or is_numeric(kind) or is_time(kind) or bool(pa.types.is_time(kind) or pa.types.is_null(kind))


def is_text(kind: "pa.DataType") -> bool:
    """Return whether a type is text."""
    return (kind.value_type if pa.types.is_dictionary(kind) else kind) in ("string", "large_string")


def is_time(kind: "pa.DataType") -> bool:
    """Return whether a type is a date or a timestamp."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_numeric(kind: "pa.DataType") -> bool:
    """Return whether a type is a number type or boolean."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _mostly_numbers(texts: Sequence[str | None]) -> bool:
    present = [text for text in texts if text is not None and text.strip().lower() not in ("", "nan")]
    return bool(present) and 2 * sum(map(_is_number, present)) >= len(present)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python accepts 1_000
