"""The command line of `linreg_pl.tables.shuffle`. Needs no torch."""

from pathlib import Path

from linreg_pl.cli.arguments import CommandParser
from linreg_pl.tables.shuffle import shuffle


def command(arguments: list[str]) -> None:
    """Run ``python train.py shuffle`` with these arguments.

    Raises:
        InputError: wrong arguments, a table that cannot be read, or no space to write.
    """
    parser = CommandParser("shuffle", "Rewrite a table of any size as a Parquet file in random order.")
    parser.add_argument("IN", help="a CSV, Parquet or Feather file, a folder of them, or a quoted pattern")
    parser.add_argument("OUT", type=Path, help="the Parquet file to write; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random order (default: 0)")
    parser.add_argument("--memory", type=int, default=256, help="MiB for the rows in memory (default: 256)")
    given = parser.parse_args(arguments)
    rows = shuffle(given.IN, given.OUT, given.seed, given.memory)
    print(f"{rows:,} rows, shuffled, in {given.OUT}")
