"""The command line of `linreg_pl.tables.shuffle`. Needs no torch."""

from dataclasses import fields
from pathlib import Path

from linreg_pl.cli.arguments import CommandParser
from linreg_pl.errors import InputError
from linreg_pl.tables.reading import Reading
from linreg_pl.tables.shuffle import shuffle


def command(arguments: list[str]) -> None:
    """Run ``python train.py shuffle`` with these arguments."""
    parser = CommandParser("shuffle", "Rewrite a table of any size as a Parquet file in random order.")
    parser.add_argument("IN", help="a table, as --data.path of fit: a file, a folder, a quoted pattern, a database")
    parser.add_argument("OUT", type=Path, help="the Parquet file to write; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random order (default: 0)")
    parser.add_argument("--memory", type=int, default=256, help="MiB for the rows in memory (default: 256)")
    names = [field.name for field in fields(Reading)]
    for name in names:
        count = "*" if name == "null_values" else None
        parser.add_argument(f"--{name}", default=getattr(Reading, name), nargs=count, help=f"as --data.{name} of fit")
    given = parser.parse_args(arguments)
    try:
        reading = Reading(**{name: getattr(given, name) for name in names})
        rows = shuffle(given.IN, given.OUT, given.seed, given.memory, reading)
    except InputError as error:
        raise InputError(str(error).replace("--data.", "--")) from error
    print(f"{rows:,} rows, shuffled, in {given.OUT}")
