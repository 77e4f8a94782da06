"""Writes tables in every form, for files and for whatever else can be written to."""

from typing import Any

import pyarrow as pa
from pyarrow import csv, feather, parquet


def write_table(table: pa.Table, where: Any, form: str, rows: int) -> None:
    """Write a table as "csv", "parquet" or "feather", the latter in groups of so many rows."""
    match form:
        case "csv":
            csv.write_csv(table, where)
        case "parquet":
            parquet.write_table(table, where, row_group_size=rows)
        case "feather":
            feather.write_feather(table, where, chunksize=rows)
