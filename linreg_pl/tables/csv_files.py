"""CSV files as Arrow tables, with a type for each column that fits all of its values."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linreg_pl.errors import InputError
from linreg_pl.tables import arrow as pa
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.sources import InMemory, Source
from linreg_pl.tables.spool import spool_batches

LARGE = 2**26  # bytes; a larger file is converted block by block
BLOCK, SMALL_BLOCK = 2**23, 2**20  # bytes; the first one decides on the types at first
NEEDLESS_ZERO = r"^\s*[+-]?0[0-9]+\s*$"


def load_csv(path: Path, name: str, categorical: Sequence[str], reading: Reading) -> Source:
    """Read a small CSV file into memory; convert a large one, as it is read several times, and faster as Arrow.

    Categorical columns stay text if one of their numbers begins with a needless zero, as codes do.

    Raises:
        InputError: no rows, rows of unequal length, an open quotation mark, no room for the copy, or values
            that look like those of another form.
    """
    file = _Csv(path, name, reading)
    file.check_begin()
    try:
        return file.load(categorical)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):  # a header without an end of line
            raise InputError(f"{name}: has no rows") from error
        if re.search(r"Expected \d+ columns", str(error)):
            raise file.ragged() from error
        if "straddl" in str(error):
            raise InputError(f"{name}: a row is longer than 1 MiB: is a quotation mark left open?") from error
        raise


@dataclass
class _Csv:
    """A file and how it is read."""

    path: Path
    name: str
    reading: Reading

    def check_begin(self) -> None:
        """Check that the file begins as its encoding and its delimiter let expect."""
        with self.path.open("rb") as file:
            begin = file.read(2**12)
        wide = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in begin
        if wide and codecs.lookup(self.reading.encoding).name == "utf-8":
            mend = "save the file as UTF-8, or set --data.encoding utf-16"
            raise InputError(f"{self.name}: is not UTF-8 text: it contains zero bytes: {mend}")
        header = begin.decode(self.reading.encoding, "replace").strip().split("\n")[0]
        other = [mark for mark in (";", "\t", "|", ",") if mark in header]
        if other and (self.reading.delimiter or ",") not in header:
            raise InputError(f"{self.name}: one column named {header.strip()!r}: set --data.delimiter {other[0]!r}")

    def load(self, categorical: Sequence[str]) -> Source:
        """Read all rows, with a type for each column that fits all its values."""
        grouped = self.grouped_numbers() if self.reading.thousands else {}
        types = dict.fromkeys((*self.codes(categorical), *grouped), "string")
        while True:
            try:
                if self.path.stat().st_size <= LARGE:
                    return InMemory(self.name, next(self.numbers([self.open(types, whole=True)], grouped)))
                with self.open(types) as reader:
                    (none,) = self.numbers([reader.schema.empty_table()], grouped)
                    tables = (pa.Table.from_batches([block]) for block in reader)
                    return spool_batches(self.name, none.schema, self.numbers(tables, grouped))
            except pa.ArrowInvalid as error:
                found = re.search(r"In CSV column #(\d+): .*conversion error to (\w+)", str(error))
                if found is None or found[2] == "string":
                    raise
                column = self.open().schema.names[int(found[1])]
                types[column] = "double" if found[2] == "int64" else "string"

    def open(
        self,
        types: dict[str, str] | None = None,
        only: Sequence[str] | None = None,
        whole: bool = False,
        threads: bool = True,
    ) -> Any:
        """Open it to be read block by block, or read the whole of it."""
        function, block_size = (pa.csv.read_csv, SMALL_BLOCK) if whole else (pa.csv.open_csv, BLOCK)
        nulls = {} if self.reading.null_values is None else {"null_values": list(self.reading.null_values)}
        point = self.reading.decimal or "."
        return function(
            self.path,
            pa.csv.ReadOptions(block_size=block_size, use_threads=threads, encoding=self.reading.encoding),
            pa.csv.ParseOptions(delimiter=self.reading.delimiter or ","),
            pa.csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, include_columns=only, decimal_point=point, **nulls
            ),
        )

    def texts(self, names: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        """Yield some columns as text, block by block."""
        if names:
            with self.open(dict.fromkeys(names, "string"), names) as reader:
                yield from reader

    def codes(self, names: Sequence[str]) -> set[str]:
        """Return those columns in which a number begins with a needless zero."""
        if not names:
            return set()
        # Those that are text anyway save a pass over the file.
        wanted = [field.name for field in self.open().schema if field.name in names and field.type != "string"]
        blocks = self.texts(wanted)
        return {column for block in blocks for column in wanted if _any(block.column(column), NEEDLESS_ZERO)}

    def grouped_numbers(self) -> dict[str, str]:
        """Return the columns of numbers, at least one of them with separated thousands, and their types."""
        mark, point = re.escape(self.reading.thousands or ""), re.escape(self.reading.decimal or ".")
        grouped, whole = rf"\d{{1,3}}({mark}\d{{3}})+", rf"^[^{point}]*$"
        number = rf"^\s*[+-]?(\d*|{grouped})({point}\d*)?([eE][+-]?\d+)?\s*$"
        names = self.open().schema.names
        found, candidates, fractions = set[str](), set(names), set[str]()
        for block in self.texts(names):
            candidates -= {column for column in candidates if _any(block.column(column), number, invert=True)}
            found |= {column for column in candidates if _any(block.column(column), grouped)}
            fractions |= {column for column in candidates if _any(block.column(column), whole, invert=True)}
        return {column: "double" if column in fractions else "int64" for column in found & candidates}

    def numbers(self, tables: "Iterable[pa.Table]", grouped: dict[str, str]) -> "Iterator[pa.Table]":
        """Yield the blocks of the file, with the texts of some columns as numbers."""
        for number, table in enumerate(tables):
            if number == 0:
                self.check_marks(table)
            names, columns = table.schema.names, table.columns
            for name, kind in grouped.items():
                texts = pa.compute.utf8_trim_whitespace(table[name])
                for mark, plain in ((self.reading.thousands, ""), (self.reading.decimal or ".", ".")):
                    texts = pa.compute.replace_substring(texts, mark, plain)
                columns[names.index(name)] = texts.cast(kind)
            yield pa.table(columns, names)

    def check_marks(self, table: "pa.Table") -> None:
        """Check that no texts are numbers with marks that the flags do not tell."""
        if self.reading.decimal is not None or self.reading.thousands == ",":
            return
        for field, column in zip(table.schema, table.columns, strict=True):
            texts = column.slice(0, 10_000)
            if field.type != "string" or _any(texts, r"^\s*[+-]?\d+(,\d+)*\s*$", invert=True):
                continue
            commas = [text for text in texts.to_pylist() if text and "," in text]
            thousands = all(re.fullmatch(r"\s*[+-]?\d{1,3}(,\d{3})+\s*", text) for text in commas)
            if commas:
                flags = "--data.thousands ',' or --data.decimal ','" if thousands else "--data.decimal ','"
                raise InputError(
                    f"{self.name}: column {field.name!r} has numbers such as {commas[0]!r}: set {flags}; or set"
                    " --data.decimal . to keep them as text"
                )

    def ragged(self) -> InputError:
        """Name the first row with too few or too many values; only a reader with one thread counts the rows."""
        try:
            self.open(whole=True, threads=False)
        except pa.ArrowInvalid as error:
            if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
                row, expected, actual = map(int, found.groups())
                return InputError(f"{self.name}: row {row - 1}: has {actual} values for {expected} columns")
        return InputError(f"{self.name}: has rows of unequal length")


def _any(column: "pa.Array", pattern: str, invert: bool = False) -> bool:
    """Tell whether a pattern matches any text, or with ``invert`` whether it does not match one."""
    matches = pa.compute.match_substring_regex(column, pattern)
    return bool(pa.compute.any(pa.compute.invert(matches) if invert else matches).as_py())
