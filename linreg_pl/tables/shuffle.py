"""Shuffles a table of any size into a Parquet file, in bounded memory. Needs no torch."""

import errno
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.files import commit
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.sources import Files, Source

GROUP_ROWS, GROUP_BYTES = 2**16, 2**25  # upper bounds of the size of a row group
BUCKETS = 128  # largest number of files open at once


def shuffle(path: str, out: Path, seed: int = 0, memory: int = 256, reading: Reading | None = None) -> int:
    """Write the rows of a table in uniformly random order into one Parquet file, with all columns and their types.

    Types that Parquet does not have become the nearest ones; for example, seconds become milliseconds.

    Args:
        path: a table, as for `open_table`.
        out: the new file; it appears only when it is complete.
        seed: the same seed, table and memory give the same file.
        memory: MiB for the rows held in memory, in addition to what reading a table takes.
        reading: what the table does not tell of itself.

    Returns:
        The number of rows.

    Raises:
        InputError: wrong arguments, a table that cannot be read, or no space to write.
    """
    require_not_negative("--seed", seed)
    require_positive("--memory", memory)
    _require_new(out, path)
    source = open_table(path, "IN", reading=reading)
    try:
        schema = _schema(source)
        pieces = (pa.Table.from_batches([piece.batch]) for piece in source.pieces(schema.names))
        tables = (table.select(schema.names).cast(schema) for table in pieces)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
            # Each chunk gets a quarter, as two chunks and a row group are in memory at once; strings end at 2 GiB.
            generator = np.random.Generator(np.random.PCG64(seed))
            job = _Job(schema, Path(name), min(memory * 2**18, 2**30), generator)
            finished = job.folder / "finished"
            with pa.parquet.ParquetWriter(finished, schema) as writer:
                for table in job.shuffled(tables, source.num_rows):
                    writer.write_table(table)  # as a row group
            commit(finished, out)
    except pa.ArrowException as error:
        raise InputError(f"{path}: cannot be shuffled: {str(error).splitlines()[0]}") from error
    except OSError as error:
        mend = "; free as much space there as the uncompressed table takes" if error.errno == errno.ENOSPC else ""
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise InputError(f"{out}: cannot be written from {path}: {reason}{mend}") from error
    return source.num_rows


def _require_new(out: Path, path: str) -> None:
    if out.suffix.lower() not in (".parquet", ".pq"):
        raise InputError(f"{out}: OUT must end in .parquet or .pq")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}: create it first")
    if os.path.lexists(out):
        raise InputError(f"{out}: already exists: remove it, or name another file")
    if any(out.resolve().match(str(taken)) for taken in (Path(path).resolve(), Path(path).resolve() / "*")):
        raise InputError(f"{out}: would become part of {path}: choose another folder")


def _schema(source: Source) -> "pa.Schema":
    """Return column types that hold the values of all files, which must have the same columns."""
    if not isinstance(source, Files):
        return source.schema
    for part in source.sources:
        for extra in set(part.schema.names) - set(source.schema.names):
            raise InputError(f"{part.name}: has a column {extra!r}, which {source.sources[0].name} does not have")
    own = [pa.schema([field for field in part.schema if field.name not in source.told]) for part in source.sources]
    return pa.unify_schemas([source.schema, *own], promote_options="permissive")


class _Job(NamedTuple):
    schema: "pa.Schema"  # of the rows
    folder: Path  # for temporary files
    chunk_bytes: int  # size of the rows that are held in memory together
    generator: np.random.Generator

    def shuffled(self, tables: "Iterator[pa.Table]", rows: int) -> "Iterator[pa.Table]":
        """Yield all rows in random order, one row group at a time.

        Rows that fit into one chunk are permuted. Otherwise each row is written to a random bucket (a file), and
        the buckets are shuffled one after another in the same way. The result is a uniformly random permutation
        (Rao 1961, Sandelius 1962).
        """
        chunks = self.chunks(tables)
        chunk = next(chunks)
        if chunk.num_rows == rows:
            order = self.generator.permutation(rows)
            parts = math.ceil(max(rows / GROUP_ROWS, _num_bytes(chunk) / GROUP_BYTES))
            for part in range(parts):
                yield chunk.take(order[rows * part // parts : rows * (part + 1) // parts])
            return
        expected = rows / chunk.num_rows * _num_bytes(chunk) / self.chunk_bytes
        count = max(2, min(BUCKETS, math.ceil(1.25 * expected)))  # a quarter more, as buckets differ in size
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            buckets = [Path(name, str(number)) for number in range(count)]
            chunks = chain(iter([chunk]), chunks)  # an iterator, unlike a list, frees the chunk once it is read
            del chunk
            for bucket, size in zip(buckets, self.scatter(chunks, buckets), strict=True):
                if size:
                    yield from self.shuffled(_read(bucket), size)
                bucket.unlink()

    def scatter(self, chunks: "Iterator[pa.Table]", buckets: list[Path]) -> list[int]:
        """Write each row to a random bucket, and return the number of rows in each bucket."""
        sizes = np.zeros(len(buckets), dtype=np.int64)
        with ExitStack() as stack:
            files = [stack.enter_context(pa.OSFile(str(bucket), "wb")) for bucket in buckets]
            writers = [stack.enter_context(pa.ipc.new_stream(file, self.schema)) for file in files]
            for chunk in chunks:
                chosen = self.generator.integers(len(buckets), size=chunk.num_rows, dtype=np.uint8)
                counts = np.bincount(chosen, minlength=len(buckets))
                members = np.split(np.argsort(chosen, kind="stable"), np.cumsum(counts)[:-1])
                for writer, rows in zip(writers, members, strict=True):
                    if rows.size:
                        writer.write_table(chunk.take(rows))
                sizes += counts
                del chunk  # else it would stay in memory together with the next one
        return sizes.tolist()

    def chunks(self, tables: "Iterator[pa.Table]") -> "Iterator[pa.Table]":
        """Concatenate tables into chunks of at most ``chunk_bytes``, and yield each chunk."""
        pending: list[pa.Table] = []
        size = 0
        for table in tables:
            more = _num_bytes(table)
            if pending and size + more > self.chunk_bytes:
                yield _joined(pending)
                size = 0
            pending.append(table)
            size += more
        yield _joined(pending)


def _num_bytes(table: "pa.Table") -> int:
    """Return the bytes of the rows without dictionaries, which all tables from one file share."""
    wide = [column for column in table.columns if not pa.types.is_dictionary(column.type)]
    return int(sum(column.nbytes for column in wide) + 4 * table.num_rows * (table.num_columns - len(wide)))


def _joined(tables: "list[pa.Table]") -> "pa.Table":
    """Concatenate tables into one, and empty the list to free their memory."""
    table = pa.concat_tables(tables).combine_chunks()
    tables.clear()
    pa.default_memory_pool().release_unused()  # the pool would keep as much memory again
    return table


def _read(path: Path) -> "Iterator[pa.Table]":
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])
