"""Tables in files: read piece by piece, turned into numbers, shuffled. Needs no torch."""

from linreg_pl.tables.columns import Columns
from linreg_pl.tables.shuffle import shuffle
from linreg_pl.tables.sources import Source, open_table

__all__ = ["Columns", "Source", "open_table", "shuffle"]
