"""pyarrow, imported where it is first used."""

import subprocess
import sys

import pyarrow as theirs
import pyarrow.compute
import pytest

from linreg_pl.tables import arrow
from tests.support.commands import REPOSITORY


def test_names_are_those_of_pyarrow():
    assert arrow.table is theirs.table
    assert arrow.compute is pyarrow.compute
    with pytest.raises(AttributeError, match="nothing"):
        _ = arrow.nothing


def test_tables_are_imported_without_it():
    code = "import sys, linreg_pl.tables, linreg_pl.data; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
