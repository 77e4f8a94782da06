"""What a file does not tell of itself, and a user does."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from linreg_pl.errors import InputError


@dataclass
class Reading:
    """How tables are read: the form of CSV files, and what is asked of a database.

    Args:
        query: SQL that selects the rows, for a path such as ``postgresql://host/database`` or ``sqlite:///file.db``.
        delimiter: what separates the values in a line of a CSV file; by default a tab in .tsv, else a comma.
        decimal: the decimal mark of CSV files; by default a point.
        thousands: what separates groups of three digits in CSV files; by default nothing does.
        encoding: of CSV files, such as latin-1 or utf-16.
        null_values: what stands for a missing value in CSV files; by default nothing, NA, NaN, null and the like.

    Raises:
        InputError: one of them cannot be used, alone or with another.
    """

    query: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str = "utf-8"
    null_values: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.delimiter = "\t" if self.delimiter == "\\t" else self.delimiter  # as shells pass it on
        marks = {"delimiter": self.delimiter, "decimal": self.decimal, "thousands": self.thousands}
        given = {name: mark for name, mark in marks.items() if mark is not None}
        for number, (name, mark) in enumerate(given.items()):
            if len(mark) != 1 or mark.isalnum() or mark in '"\n\r+-' or not (mark.isascii() or name == "thousands"):
                raise InputError(f"--data.{name} {mark!r}: must be one character, and no letter, digit, sign or quote")
            if other := [earlier for earlier in list(given)[:number] if given[earlier] == mark]:
                raise InputError(f"--data.{name} {mark!r}: is --data.{other[0]} too")
        if self.decimal is None and self.thousands == ".":
            raise InputError("--data.thousands .: is the decimal point too; set --data.decimal ','")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise InputError(f"--data.encoding {self.encoding}: there is no such encoding; try latin-1") from error
