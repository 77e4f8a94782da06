"""CSV files as Arrow tables, with a type for each column that fits all of its values."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linreg_pl.errors import InputError
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.spool import Spooled, spool_batches

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

LARGE = 2**26  # bytes; a larger file is converted block by block
BLOCK = 2**23  # bytes
NEEDLESS_ZERO = r"^\s*[+-]?0[0-9]+\s*$"


def load_csv(
    path: Path, name: str, categorical: Sequence[str] = (), reading: Reading | None = None
) -> "pa.Table | Spooled":
    """Read a small CSV file into memory; convert a large one, as it is read several times, and faster as Arrow.

    Args:
        path: the file.
        name: its name in messages.
        categorical: columns that stay text if one of their numbers begins with a needless zero, as codes do.
        reading: its form.

    Raises:
        InputError: no rows, rows of unequal length, an open quotation mark, no room for the copy, or values
            that look like those of another form.
    """
    import pyarrow as pa

    file = _Csv(path, reading or Reading())
    file.check_begin(name)
    try:
        grouped = file.grouped_numbers() if file.reading.thousands else {}
        types: dict[str, pa.DataType] = dict.fromkeys((*file.codes(categorical), *grouped), pa.string())
        while True:  # until every column has a type that fits all its values
            try:
                if path.stat().st_size <= LARGE:
                    return file.numbers(next(file.checked([file.read(types)], name)), grouped)
                with file.open(types) as reader:
                    blocks = (file.numbers(block, grouped) for block in file.checked(reader, name))
                    schema = file.numbers(reader.schema.empty_table(), grouped).schema
                    return spool_batches(name, schema, blocks)
            except pa.ArrowInvalid as error:
                found = re.search(r"In CSV column #(\d+): .*conversion error to (\w+)", str(error))
                if found is None or found[2] == "string":
                    raise
                column = file.open().schema.names[int(found[1])]
                types[column] = pa.float64() if found[2] == "int64" else pa.string()
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):  # a header without an end of line
            raise InputError(f"{name}: has no rows") from error
        if re.search(r"Expected \d+ columns", str(error)):
            raise file.ragged(name) from error
        if "straddl" in str(error):
            raise InputError(f"{name}: a row is longer than 1 MiB: is a quotation mark left open?") from error
        raise


class _Csv:
    """A file and how it is read."""

    def __init__(self, path: Path, reading: Reading) -> None:
        from pyarrow import csv

        self.path, self.reading = path, reading
        self.parse = csv.ParseOptions(delimiter=reading.delimiter or ",")

    def check_begin(self, name: str) -> None:
        """Check that the file begins as its encoding and its delimiter let expect.

        Raises:
            InputError: it does not.
        """
        with self.path.open("rb") as file:
            begin = file.read(2**12)
        wide = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in begin
        if wide and codecs.lookup(self.reading.encoding).name == "utf-8":
            mend = "save the file as UTF-8, or set --data.encoding utf-16"
            raise InputError(f"{name}: is not UTF-8 text: it contains zero bytes: {mend}")
        header = begin.decode(self.reading.encoding, "replace").strip().split("\n")[0]
        other = [mark for mark in (";", "\t", "|", ",") if mark in header]
        if other and self.parse.delimiter not in header:
            raise InputError(f"{name}: one column named {header.strip()!r}: set --data.delimiter {other[0]!r}")

    def _options(self, types: "dict[str, pa.DataType] | None", only: Sequence[str] | None) -> "csv.ConvertOptions":
        from pyarrow import csv

        nulls = {} if self.reading.null_values is None else {"null_values": list(self.reading.null_values)}
        point = self.reading.decimal or "."
        return csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, include_columns=only, decimal_point=point, **nulls
        )

    def open(self, types: "dict[str, pa.DataType] | None" = None, only: Sequence[str] | None = None) -> Any:
        """Open it to be read block by block."""
        from pyarrow import csv

        read = csv.ReadOptions(block_size=BLOCK, encoding=self.reading.encoding)
        return csv.open_csv(self.path, read, self.parse, self._options(types, only))

    def read(self, types: "dict[str, pa.DataType]") -> "pa.Table":
        """Read all of it."""
        from pyarrow import csv

        options = csv.ReadOptions(encoding=self.reading.encoding)
        return csv.read_csv(self.path, options, self.parse, self._options(types, None))

    def _texts(self, names: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        if names:
            with self.open(dict.fromkeys(names, pa.string()), names) as reader:
                yield from reader

    def codes(self, names: Sequence[str]) -> set[str]:
        """Return those columns in which a number begins with a needless zero."""
        import pyarrow as pa

        # Those that are text anyway save a pass over the file.
        wanted = [field.name for field in self.open().schema if field.name in names and field.type != pa.string()]
        blocks = self._texts(wanted)
        return {column for block in blocks for column in wanted if _any(block.column(column), NEEDLESS_ZERO)}

    def grouped_numbers(self) -> "dict[str, pa.DataType]":
        """Return the columns of numbers, at least one of them with separated thousands, and their types."""
        import pyarrow as pa

        mark, point = re.escape(self.reading.thousands or ""), re.escape(self.reading.decimal or ".")
        grouped, whole = rf"\d{{1,3}}({mark}\d{{3}})+", rf"^[^{point}]*$"
        number = rf"^\s*[+-]?(\d*|{grouped})({point}\d*)?([eE][+-]?\d+)?\s*$"
        names = self.open().schema.names
        found, candidates, fractions = set[str](), set(names), set[str]()
        for block in self._texts(names):
            candidates -= {column for column in candidates if _any(block.column(column), number, invert=True)}
            found |= {column for column in candidates if _any(block.column(column), grouped)}
            fractions |= {column for column in candidates if _any(block.column(column), whole, invert=True)}
        return {column: pa.float64() if column in fractions else pa.int64() for column in found & candidates}

    def numbers(self, table: Any, grouped: "dict[str, pa.DataType]") -> Any:
        """Turn the texts of some columns into numbers."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if grouped and isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        for column, kind in grouped.items():
            texts = pc.replace_substring(pc.utf8_trim_whitespace(table[column]), self.reading.thousands, "")
            values = pc.replace_substring(texts, self.reading.decimal or ".", ".").cast(kind)
            table = table.set_column(table.schema.get_field_index(column), column, values)
        return table

    def checked(self, blocks: Iterable[Any], name: str) -> Iterator[Any]:
        """Yield blocks, unless texts of the first one are numbers with marks that the flags do not tell.

        Raises:
            InputError: they are; names the column and the flag.
        """
        import pyarrow as pa

        unknown = self.reading.decimal is None and self.reading.thousands != ","
        for number, block in enumerate(blocks):
            for index, field in enumerate(block.schema if number == 0 and unknown else ()):
                texts = block.column(index).slice(0, 10_000)
                if field.type != pa.string() or _any(texts, r"^\s*[+-]?\d+(,\d+)*\s*$", invert=True):
                    continue
                commas = [text for text in texts.to_pylist() if text and "," in text]
                thousands = all(re.fullmatch(r"\s*[+-]?\d{1,3}(,\d{3})+\s*", text) for text in commas)
                if commas:
                    flags = "--data.thousands ',' or --data.decimal ','" if thousands else "--data.decimal ','"
                    raise InputError(
                        f"{name}: column {field.name!r} has numbers such as {commas[0]!r}: set {flags}; or set"
                        " --data.decimal . to keep them as text"
                    )
            yield block

    def ragged(self, name: str) -> InputError:
        """Name the first row with too few or too many values; only a reader with one thread counts the rows."""
        import pyarrow as pa
        from pyarrow import csv

        try:
            csv.read_csv(self.path, csv.ReadOptions(use_threads=False, encoding=self.reading.encoding), self.parse)
        except pa.ArrowInvalid as error:
            if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
                row, expected, actual = map(int, found.groups())
                return InputError(f"{name}: row {row - 1}: has {actual} values for {expected} columns")
        return InputError(f"{name}: has rows of unequal length")


def _any(column: "pa.Array", pattern: str, invert: bool = False) -> bool:
    """Tell whether a pattern matches any text, or with ``invert`` whether it does not match one."""
    import pyarrow.compute as pc

    matches = pc.match_substring_regex(column, pattern)
    return bool(pc.any(pc.invert(matches) if invert else matches).as_py())
