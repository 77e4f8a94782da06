"""Tables of SQLite, through the same door as those of PostgreSQL."""

import gc
import sqlite3
import sys
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from linreg_pl.errors import InputError
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.reading import Reading


@pytest.fixture
def path(tmp_path):
    with closing(sqlite3.connect(tmp_path / "f.db")) as connection:
        connection.execute("create table t (x real, n integer, city text)")
        rows = [(i / 7, i, "Oslo" if i % 2 else None) for i in range(100_000)]
        connection.executemany("insert into t values (?, ?, ?)", rows)
        connection.execute("create table mixed as select 1 as x union all select 'a'")
        connection.commit()
    return tmp_path / "f.db"


def refusal(uri, query):
    with pytest.raises(InputError) as error:
        open_table(uri, reading=Reading(query=query))
    return str(error.value)


def test_rows_are_those_of_the_query(path):
    source = open_table(f"sqlite:///{path}", reading=Reading(query="select x, n, city from t where n >= 10 order by n"))
    assert [str(field.type) for field in source.schema] == ["double", "int64", "string"]
    assert len(source.units) > 1
    rows = pa.Table.from_batches([piece.batch for piece in source.pieces(["n", "x", "city"])])
    np.testing.assert_array_equal(rows["x"], np.arange(10, 100_000) / 7)
    assert rows["city"].null_count == 49_995
    path.unlink()  # read once
    assert sum(piece.batch.num_rows for piece in source.pieces(["x"])) == 99_990
    del source
    gc.collect()


def test_path_may_be_relative(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert open_table("sqlite:///f.db", reading=Reading(query="select * from t")).num_rows == 100_000


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (None, "{uri}: is a database: say which rows, as in --data.query 'select * from houses'"),
        ("select * from nope", "{uri}: …no such table: nope…"),
        ("delete from t", "{uri}: …readonly database…"),
        ("select * from t where n < 0", "{uri}: has no rows"),
        ("select x, n as x from t", "{uri}: 2 columns are named 'x': rename all but one"),
    ],
)
def test_wrong_queries_are_refused(path, query, sentence):
    uri = f"sqlite:///{path}"
    said, parts = refusal(uri, query), sentence.format(uri=uri).split("…")
    assert all(part in said for part in parts)
    assert "\n" not in said
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select count(*) from t").fetchone() == (100_000,)


def test_column_of_several_types_is_refused(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table late (x)")
        connection.executemany("insert into late values (?)", [(1,)] * 70_000 + [("a",)])
        connection.commit()
    assert "cast the column, as in cast(x as real)" in refusal(f"sqlite:///{path}", "select * from late")


def test_file_that_is_not_there_is_not_made(tmp_path):
    sentence = refusal(f"sqlite:///{tmp_path}/none.db", "select 1")
    assert sentence.startswith(f"{tmp_path}/none.db: no such file (--data.path)")
    assert not list(tmp_path.iterdir())


def test_query_without_a_database_is_refused(tmp_path):
    sentence = "--data.query: t.csv is no database, such as postgresql://host/name; leave the flag out"
    assert refusal("t.csv", "select 1") == sentence


def test_missing_driver_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "adbc_driver_sqlite.dbapi", None)
    assert 'needs pip install "linreg_pl[database]"' in refusal(f"sqlite:///{path}", "select 1")
