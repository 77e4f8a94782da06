"""Rows of a table as SGD takes them, in float32."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from linreg_pl.data.table import Table


class TestRounding:
    """Integers that float32 cannot represent are rounded, with a message."""

    SENTENCE = "column 'x': integers beyond 2^24 are rounded to float32, which the steps are taken in\n\n"

    def rows(self, tmp_path, x, standardize):
        parquet.write_table(pa.table({"x": x, "y": np.arange(float(len(x)))}), tmp_path / "t.parquet", 20_000)
        data = Table(str(tmp_path / "t.parquet"), target="y", standardize=standardize)
        data.setup("fit")
        return data.rows("train")

    def test_it_is_announced_once(self, tmp_path, capsys):
        x = 2**24 + np.arange(60_000)
        torch.testing.assert_close(
            self.rows(tmp_path, x, False)[:].X[:, 0].numpy(), x.astype(np.float32), rtol=0, atol=0
        )
        assert capsys.readouterr().out == self.SENTENCE

    @pytest.mark.parametrize(
        ("x", "standardize"),
        [
            (2**24 + np.arange(100), True),
            (2 * (2**23 + np.arange(100)), False),  # even ones stay exact up to 2^25
            (2.0**24 + np.arange(100) + 0.5, False),  # no integers
            (2**24 - np.arange(100), False),
        ],
        ids=["standardised", "exact", "fractions", "small"],
    )
    def test_silence_where_nothing_is_lost(self, tmp_path, capsys, x, standardize):
        self.rows(tmp_path, x, standardize)
        assert capsys.readouterr().out == ""

    def test_each_column_is_named(self, tmp_path, capsys):
        columns = {"a": 2**24 + np.arange(5), "b": np.arange(5), "c": -(2**24) - np.arange(5), "y": np.ones(5)}
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        data = Table(str(tmp_path / "t.parquet"), target="y", standardize=False)
        data.setup("fit")
        data.rows("train")
        assert [line.split("'")[1] for line in capsys.readouterr().out.splitlines() if line] == ["a", "c"]
