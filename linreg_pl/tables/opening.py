"""Opens tables: files and folders of any form, wherever they are, and what a database selects."""

import re
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from linreg_pl.errors import InputError
from linreg_pl.files import shipped
from linreg_pl.tables.csv_files import load_csv
from linreg_pl.tables.database import is_database, load_query
from linreg_pl.tables.finding import find
from linreg_pl.tables.json_files import load_json
from linreg_pl.tables.places import NOT_UTF8, Place, locate, readable
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.sources import ArrowFile, Files, InFolder, InMemory, Parquet, Source
from linreg_pl.tables.spool import Spooled, spool

if TYPE_CHECKING:
    import pyarrow as pa

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive's and Spark's name of the folder of missing values
AT_ONCE = 8  # files elsewhere that are opened at the same time


def open_table(
    path: str | Path, flag: str = "--data.path", categorical: Sequence[str] = (), reading: Reading | None = None
) -> Source:
    """Open a table.

    Args:
        path: a file, whose name tells the form; a folder; a pattern like ``houses/*.parquet``; each on this machine
            or elsewhere, like ``s3://bucket/houses``; or a database. The names of folders like ``year=2024`` inside of
            a folder, and from the first wildcard of a pattern on, tell columns.
        flag: the flag that gave the path, for messages.
        categorical: columns in which ``01234`` of a CSV file is a text, not the number 1234.
        reading: what files do not tell of themselves.

    Raises:
        InputError: no such file, an unknown format, content of another format, no rows, two columns with the same name,
            or a place that cannot be reached.
    """
    text, reading = shipped(path, ".csv"), reading or Reading()
    if not text:
        raise InputError(f"{flag}: is empty; name a file, a folder or a pattern")
    if is_database(text):
        source: Source = _spooled(text, load_query(text, reading.query, flag), volatile=True)
        _check_names(source)
    elif reading.query is not None:
        raise InputError(f"--data.query: {text} is no database, such as postgresql://host/name; leave the flag out")
    else:
        places = find(text, flag, list(OPENERS))
        open_one = partial(_open, flag=flag, categorical=categorical, reading=reading)
        with ThreadPoolExecutor(AT_ONCE if places[0].remote else 1) as pool:
            sources = list(pool.map(open_one, places))
        sources = _with_folders(places, sources, categorical)
        source = sources[0] if len(sources) == 1 else Files(text, sources)
    if source.num_rows == 0:
        raise InputError(f"{text}: has no rows")
    return source


def _open(place: Place, flag: str, categorical: Sequence[str], reading: Reading) -> Source:
    import pyarrow as pa

    opener = OPENERS.get(place.suffix)
    if opener is None or (place.compressed and opener not in (_csv, _json)):
        raise InputError(
            f"{place.name}: {flag} must end in .csv, .tsv or .jsonl, perhaps followed by .gz, .bz2 or .zst, or in"
            " .parquet or .feather"
        )
    with readable(place.name):
        if place.size == 0:
            raise InputError(f"{place.name}: is empty")
        source = opener(place, categorical, reading)
    _check_names(source)
    for name, kind in zip(source.schema.names, source.schema.types, strict=True):
        if opener is _csv and pa.types.is_binary(kind):
            raise InputError(f"{place.name}: column {name!r}: {NOT_UTF8}")
    return source


def _check_names(source: Source) -> None:
    names = source.schema.names
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{source.name}: {names.count(name)} columns are named {name!r}: rename all but one")


def _csv(place: Place, categorical: Sequence[str], reading: Reading) -> Source:
    if reading.delimiter is None and place.suffix == ".tsv":
        reading = replace(reading, delimiter="\t")
    return _loaded(place, partial(load_csv, categorical=categorical, reading=reading))


def _json(place: Place, categorical: Sequence[str], reading: Reading) -> Source:
    return _loaded(place, load_json)


def _loaded(place: Place, load: "Callable[[Path, str], pa.Table | Spooled]") -> Source:
    """Open a text file, of which a copy on this machine is made first if it is elsewhere, or compressed."""
    import pyarrow as pa

    copy = spool(place.name, place.suffix, place.copy_to) if place.remote or place.compressed else None
    try:
        content = load(Path(place.path) if copy is None else copy.path, place.name)
    finally:
        if copy is not None:
            copy.delete()
    return InMemory(place.name, content) if isinstance(content, pa.Table) else _spooled(place.name, content)


def _spooled(name: str, content: Spooled, volatile: bool = False) -> Source:
    source = ArrowFile(locate(str(content.path), "")._replace(name=name), volatile)
    weakref.finalize(source, content.delete)
    return source


OPENERS: dict[str, Callable[[Place, Sequence[str], Reading], Source]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json,
    ".ndjson": _json,
    ".parquet": lambda place, *_: Parquet(place),
    ".pq": lambda place, *_: Parquet(place),
    ".feather": lambda place, *_: ArrowFile(place),
    ".arrow": lambda place, *_: ArrowFile(place),
}


def _with_folders(places: Sequence[Place], sources: list[Source], categorical: Sequence[str]) -> list[Source]:
    """Add the columns that the names of folders tell: integers if all values are, else texts."""
    import pyarrow as pa

    pairs = [[name.split("=", 1) for name in place.folders if "=" in name] for place in places]
    told = [{unquote(name): unquote(value) for name, value in some} for some in pairs]
    for place, values in zip(places, told, strict=True):
        if odd := set(values) ^ set(told[0]):
            raise InputError(
                f"{place.name}: {sorted(odd)[0]!r} is in the names of its folders or in those of"
                f" {places[0].name}, but not in both: folders must be alike"
            )
    whole = re.compile(r"[+-]?\d{1,18}")
    kinds = {}
    for name in told[0]:
        known = {values[name] for values in told} - {NO_VALUE}
        codes = name in categorical and any(re.match(r"[+-]?0\d", value) for value in known)
        kinds[name] = pa.int64() if not codes and all(map(whole.fullmatch, known)) else pa.string()

    def scalar(name: str, value: str) -> "pa.Scalar":
        known = None if value == NO_VALUE else int(value) if kinds[name] == pa.int64() else value
        return pa.scalar(known, kinds[name])

    columns = [{name: scalar(name, value) for name, value in values.items()} for values in told]
    return [InFolder(*both) if both[1] else both[0] for both in zip(sources, columns, strict=True)]
