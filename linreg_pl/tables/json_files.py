"""JSON lines as Arrow tables: an object a line, in UTF-8."""

from collections.abc import Iterator
from pathlib import Path

from linreg_pl.tables import arrow as pa
from linreg_pl.tables.sources import InMemory, Source
from linreg_pl.tables.spool import spool_batches

LARGE = 2**24  # bytes; a larger file is converted piece by piece


def load_json(path: Path, name: str) -> Source:
    """Read a small file into memory; convert a large one into an Arrow file.

    A first pass finds a type for each column that fits all of its values, for pyarrow's own reader of pieces keeps the
    types of the first piece. A key that a line does not have is a missing value.

    Raises:
        pyarrow.ArrowInvalid: not JSON lines, or a key with values of several types.
        InputError: no room for the copy.
    """
    if path.stat().st_size <= LARGE:
        return InMemory(name, pa.json.read_json(path))
    schemas = [pa.json.read_json(pa.BufferReader(lines)).schema for lines in _pieces(path)]
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    options = pa.json.ParseOptions(explicit_schema=schema)
    tables = (pa.json.read_json(pa.BufferReader(lines), parse_options=options) for lines in _pieces(path))
    return spool_batches(name, schema, (table.cast(schema) for table in tables))


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces of whole lines."""
    with path.open("rb") as file:
        while lines := file.read(LARGE // 2) + file.readline():
            yield lines
