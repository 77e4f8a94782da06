"""pyarrow, for ``from linreg_pl.tables import arrow as pa``: imported where it is first used, as this takes a while."""

from importlib import import_module
from typing import Any

SUBMODULES = ("compute", "csv", "fs", "json", "parquet")  # which pyarrow itself does not import


def __getattr__(name: str) -> Any:
    """Return what pyarrow has by this name."""
    if name.startswith("__"):
        raise AttributeError(name)
    found = import_module(f"pyarrow.{name}") if name in SUBMODULES else getattr(import_module("pyarrow"), name)
    globals()[name] = found
    return found
