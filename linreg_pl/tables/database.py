"""The rows that a database selects, read once into a temporary Arrow file.

So several passes see the same rows. ADBC hands them over as Arrow record batches.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from linreg_pl.errors import InputError
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.places import CONNECT_SECONDS, refuse_password
from linreg_pl.tables.progress import bar
from linreg_pl.tables.sources import Source
from linreg_pl.tables.spool import spool_batches

DRIVERS = {
    "postgresql": "adbc_driver_postgresql.dbapi",
    "postgres": "adbc_driver_postgresql.dbapi",
    "sqlite": "adbc_driver_sqlite.dbapi",
}
# Nothing is changed, and two reads of the same table give the rows in the same order.
SETTINGS = (
    "SET TRANSACTION READ ONLY",
    "SET synchronize_seqscans = off",
    "SET max_parallel_workers_per_gather = 0",
)
SQLITE_ROWS = 2**16  # of a batch; its first one decides the types of the columns


def is_database(path: str) -> bool:
    """Tell whether a path is that of a database."""
    return path.lower().startswith(tuple(f"{scheme}://" for scheme in DRIVERS))


def load_query(uri: str, query: str | None, flag: str) -> Source:
    """Read the rows of a query from ``postgresql://user@host/database`` or ``sqlite:///file.db``.

    Raises:
        InputError: no query, no driver, a password in the URI, no such database, or what the database objects to.
    """
    refuse_password(uri, flag)
    if not query:
        raise InputError(f"{uri}: is a database: say which rows, as in --data.query 'select * from houses'")
    scheme = uri.partition("://")[0].lower()
    try:
        driver = import_module(DRIVERS[scheme])
    except ImportError as error:
        raise InputError(f'{uri}: needs pip install "linreg_pl[database]" ({error})') from error
    sqlite, address = scheme == "sqlite", uri
    if sqlite:
        address = _sqlite_uri(uri, flag)
    elif "connect_timeout=" not in uri:
        address += f"{'&' if '?' in uri else '?'}connect_timeout={2 * CONNECT_SECONDS}"
    try:
        with driver.connect(address) as connection, connection.cursor() as cursor:
            if sqlite:
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(SQLITE_ROWS)})
            for setting in () if sqlite else SETTINGS:
                cursor.execute(setting)
            cursor.execute(query)
            with cursor.fetch_record_batch() as reader:
                schema = pa.schema([(field.name, _plain_type(field)) for field in reader.schema])
                return spool_batches(uri, schema, _plain(reader, schema, uri), volatile=True)
    except (driver.Error, OSError) as error:
        said = " ".join(str(error).split("Query was:", maxsplit=1)[0].split())
        hint = "; cast the column, as in cast(x as real)" if "Type mismatch" in said else ""
        raise InputError(f"{uri}: {said}{hint} (--data.query)") from error


def _sqlite_uri(uri: str, flag: str) -> str:
    """Return the URI that SQLite knows, of a file that is only read."""
    path = Path(uri.split("://", 1)[1].removeprefix("/"))
    if not path.is_file():
        raise InputError(f"{path}: no such file ({flag}); four slashes begin an absolute path: sqlite:////data/file.db")
    return f"{path.resolve().as_uri()}?mode=ro"


def _plain_type(field: "pa.Field") -> "pa.DataType":
    """Return a type without extensions; a numeric, which comes as text, becomes a number."""
    if (field.metadata or {}).get(b"POSTGRESQL:type") == b"numeric":
        return pa.float64()
    return field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type


def _plain(reader: "pa.RecordBatchReader", schema: "pa.Schema", name: str) -> "Iterator[pa.RecordBatch]":
    with bar(None, re.sub(r"\?.*", "", name)) as shown:
        for batch in reader:
            columns = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in batch.columns]
            columns = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
            shown.update(batch.num_rows)
