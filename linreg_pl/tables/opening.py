"""Opens tables: files and folders of any form, wherever they are, and what a database selects."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from linreg_pl.errors import InputError
from linreg_pl.files import shipped
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.csv_files import load_csv
from linreg_pl.tables.database import is_database, load_query
from linreg_pl.tables.finding import find
from linreg_pl.tables.json_files import load_json
from linreg_pl.tables.places import NOT_UTF8, Place, readable
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.sources import ArrowFile, Files, Parquet, Source
from linreg_pl.tables.spool import spool

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive's and Spark's name of the folder of missing values
AT_ONCE = 8  # files elsewhere that are opened at the same time
CSV, JSON = (".csv", ".tsv"), (".jsonl", ".ndjson")
BINARY: dict[str, Callable[[Place], Source]] = {
    ".parquet": Parquet,
    ".pq": Parquet,
    ".feather": ArrowFile,
    ".arrow": ArrowFile,
}
SUFFIXES = (*CSV, *JSON, *BINARY)


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
        source = load_query(text, reading.query, flag)
        _check_names(source)
    elif reading.query is not None:
        raise InputError(f"--data.query: {text} is no database, such as postgresql://host/name; leave the flag out")
    else:
        places = find(text, flag, SUFFIXES)
        open_one = partial(_open, flag=flag, categorical=categorical, reading=reading)
        with ThreadPoolExecutor(AT_ONCE if places[0].remote else 1) as pool:
            sources = list(pool.map(open_one, places))
        told = _told_by_folders(places, categorical)
        single = len(sources) == 1
        source = sources[0] if single and not told else Files(places[0].name if single else text, sources, told)
    if source.num_rows == 0:
        raise InputError(f"{text}: has no rows")
    return source


def _open(place: Place, flag: str, categorical: Sequence[str], reading: Reading) -> Source:
    if place.suffix not in SUFFIXES or (place.compressed and place.suffix in BINARY):
        raise InputError(
            f"{place.name}: {flag} must end in .csv, .tsv or .jsonl, perhaps followed by .gz, .bz2 or .zst, or in"
            " .parquet or .feather"
        )
    with readable(place.name):
        if place.size == 0:
            raise InputError(f"{place.name}: is empty")
        opener = BINARY.get(place.suffix)
        source = opener(place) if opener else _load(place, categorical, reading)
    _check_names(source)
    for column in source.schema if place.suffix in CSV else ():
        if column.type == "binary":
            raise InputError(f"{place.name}: column {column.name!r}: {NOT_UTF8}")
    return source


def _load(place: Place, categorical: Sequence[str], reading: Reading) -> Source:
    """Load a text file, of which a copy on this machine is made first if it is elsewhere, or compressed."""
    copied = place.remote or place.compressed
    path, delete = spool(place.name, place.suffix, place.copy_to) if copied else (Path(place.path), None)
    try:
        if place.suffix in JSON:
            return load_json(path, place.name)
        if reading.delimiter is None and place.suffix == ".tsv":
            reading = replace(reading, delimiter="\t")
        return load_csv(path, place.name, categorical, reading)
    finally:
        if delete is not None:
            delete()


def _check_names(source: Source) -> None:
    for name, count in Counter(source.schema.names).items():
        if count > 1:
            raise InputError(f"{source.name}: {count} columns are named {name!r}: rename all but one")


def _told_by_folders(places: Sequence[Place], categorical: Sequence[str]) -> "dict[str, pa.Array]":
    """Return the columns that the names of folders tell: integers if all values are, else texts."""
    pairs = [[name.split("=", 1) for name in place.folders if "=" in name] for place in places]
    told = [{unquote(name): unquote(value) for name, value in some} for some in pairs]
    for place, values in zip(places, told, strict=True):
        if odd := set(values) ^ set(told[0]):
            raise InputError(
                f"{place.name}: {sorted(odd)[0]!r} is in the names of its folders or in those of"
                f" {places[0].name}, but not in both: folders must be alike"
            )
    columns = {}
    for name in told[0]:
        texts = [None if values[name] == NO_VALUE else values[name] for values in told]
        known = [text for text in texts if text is not None]
        codes = name in categorical and any(re.match(r"[+-]?0\d", text) for text in known)
        whole = not codes and all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in known)
        cells = [int(text) if whole and text is not None else text for text in texts]
        columns[name] = pa.array(cells, "int64" if whole else "string")
    return columns
