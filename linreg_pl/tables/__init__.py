"""Tables in files: read piece by piece, turned into numbers, shuffled. Needs no torch."""

from linreg_pl.tables.columns import Columns
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.shuffle import shuffle
from linreg_pl.tables.sources import Source

__all__ = ["Columns", "Source", "open_table", "shuffle"]
