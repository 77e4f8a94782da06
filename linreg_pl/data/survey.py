"""What is checked and learned of a table before its rows are used."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linreg_pl.data.sampling import Split
from linreg_pl.errors import InputError
from linreg_pl.tables.columns import MAX_COLUMNS, Columns
from linreg_pl.tables.progress import with_progress
from linreg_pl.tables.sources import Piece, Source
from linreg_pl.tables.values import as_text, decoded, find_levels, is_missing, numbers

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

PARTS = ("train", "val", "test")
DROPPED = len(PARTS)  # the number of a part that is none


class Survey(NamedTuple):
    """What one pass over a table tells."""

    missing: dict[str, int]  # number of missing values by column
    rows: list[int]  # number of each of `PARTS`, without those that are dropped or have weight 0
    levels: dict[str, list[str]]  # of the categorical columns that had none, over the training rows
    means: dict[str, float]  # of the numeric columns, over the training rows; 0 for a column without values


def read(source: Source, names: Sequence[str], rank: int = 0, world_size: int = 1) -> Iterator[Piece]:
    """Yield the pieces of a table, or one process's share of them, and show how far they have come."""
    return with_progress(source.pieces(names, rank, world_size), source.num_rows // world_size, source.name)


def survey(source: Source, columns: Columns, others: Sequence[str], split: Split) -> Survey:
    """Pass over a table once, every process over the whole of it. Rows of weight 0 are no rows.

    The other columns are the target, and then perhaps the weights.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted, weights = columns.without_levels, others[1:]
    names = columns.reads(others) if columns.missing != "error" else [*wanted, *weights]
    seen: dict[str, pa.Array] = {}
    sums, present, missing = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    rows = np.zeros(len(PARTS), np.int64)
    for piece in read(source, names) if names else ():
        numeric = [name for name in names if name not in columns.texts]
        values = {name: numbers(source, piece, name, columns.time_unit) for name in numeric}
        absent = {name: np.isnan(column) for name, column in values.items()}
        absent |= {name: is_missing(piece.batch.column(name)) for name in names if name not in values}
        parts = split.parts(piece.start, piece.start + piece.batch.num_rows).numpy()
        if columns.missing == "drop":
            parts[np.any(list(absent.values()), axis=0)] = DROPPED
        for name in weights:
            parts[values[name] == 0] = DROPPED
        training = parts == 0
        rows += np.bincount(parts, minlength=DROPPED + 1)[: len(PARTS)]
        for name in names:
            missing[name] += int(absent[name].sum())
        for name, column in values.items():
            used = training & ~absent[name]
            sums[name] += float(column[used].sum(dtype=np.float64))
            present[name] += int(used.sum())
        for name in wanted:
            found = decoded(piece.batch.column(name)).filter(pa.array(training & ~absent[name]))
            if name in seen and seen[name].type != found.type:  # from several files
                seen[name], found = as_text(seen[name]), as_text(found)
            seen[name] = pc.unique(pa.concat_arrays([*([seen[name]] if name in seen else []), found]))
    means = {name: sums[name] / max(present[name], 1) for name in names if name not in columns.texts}
    return Survey(missing, rows.tolist(), find_levels(seen), means)


def training_rows(
    source: Source, columns: Columns, others: Sequence[str], split: Split
) -> Iterator[tuple[Piece, NDArray[np.bool_]]]:
    """Yield the pieces of a table, with which of their rows are for training; rows of weight 0 are no rows."""
    for piece in read(source, columns.reads(others)):
        used = split.parts(piece.start, piece.start + piece.batch.num_rows).numpy() == 0
        for name in others[1:]:
            used &= numbers(source, piece, name, columns.time_unit) != 0
        yield piece, used


def check_fractions(val: float, test: float) -> None:
    """Raise InputError if a share of the rows that are held out is negative, or if they leave nothing."""
    for flag, fraction in (("val", val), ("test", test)):
        if not 0 <= fraction < 1:
            raise InputError(f"--data.{flag}_fraction {fraction}: must be at least 0 and less than 1")
    if val + test >= 1:
        raise InputError("--data.val_fraction and --data.test_fraction: leave no rows to train on")


def require_weights(what: str, weight: "Tensor") -> None:
    """Raise InputError if a weight is negative."""
    if (weight < 0).any():
        raise InputError(f"{what} has a negative weight, {float(weight.min()):g}: weights are zero or above")


def check_learned(columns: Columns, weights: str | None, mean_weight: float) -> None:
    """Raise InputError if a categorical column of the training rows has one level, or too many, or no row counts."""
    for name, levels in columns.levels.items():
        if len(levels) < 2:
            raise InputError(f"column {name!r} has one value only: leave it out of --data.categorical")
    if len(columns.names) > MAX_COLUMNS:
        worst = max(columns.levels, key=lambda name: len(columns.levels[name]))
        raise InputError(
            f"column {worst!r} has {len(columns.levels[worst])} levels, each a column of its own: that is too"
            " many; leave it out of --data.categorical"
        )
    if not mean_weight > 0:
        raise InputError(f"column {weights!r}: the weights of the training rows are all zero")


def carried_columns(source: Source, piece: Piece, ids: Sequence[str]) -> "pa.RecordBatch":
    """Columns that are only carried along, each of the same type in all files."""
    import pyarrow as pa

    columns = {name: (piece.batch.column(name), source.kind(name)) for name in ids}
    same = {name: x if x.type == kind else decoded(x).cast(kind) for name, (x, kind) in columns.items()}
    return pa.RecordBatch.from_pydict(same)


def numbers_and_keys(source: Source, piece: Piece, names: Sequence[str]) -> "pa.RecordBatch":
    """The numbers of rows in their table, and a key for each value of some columns, the same wherever this value is.

    Raises:
        InputError: a value is missing.
    """
    import pyarrow as pa

    keys = [np.arange(piece.start, piece.start + piece.batch.num_rows)]
    for name in names:
        if (absent := is_missing(piece.batch.column(name))).any():
            row = piece.start + int(absent.argmax())
            raise InputError(f"{source.name}: column {name!r}, {source.where(row)}: a row without a cluster or group")
        texts = as_text(piece.batch.column(name)).dictionary_encode()
        values = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.dictionary.to_pylist()]
        keys.append(np.frombuffer(b"".join(values), np.int64)[texts.indices.to_numpy()])
    return pa.RecordBatch.from_arrays(list(map(pa.array, keys)), ["row", *names])


def group_keys(source: Source, names: Sequence[str]) -> "Iterator[list[Tensor]]":
    """Yield the keys of groups of all rows, a piece of the table at a time; see `numbers_and_keys`."""
    import torch

    for piece in read(source, names):
        yield [torch.tensor(key.to_numpy()) for key in numbers_and_keys(source, piece, names).columns[1:]]
