"""Tables of a real PostgreSQL, which the tests start on a socket of its own."""

import numpy as np
import pyarrow as pa
import pytest
from adbc_driver_postgresql import dbapi

from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.reading import Reading
from tests.support.commands import CONFIGS, Forked, on_processes
from tests.support.services import postgresql

ROWS = 100_000
EXACT = ("fit", "--config", CONFIGS / "exact.yaml", "--data", "Table", "--data.target", "y")


@pytest.fixture(scope="module")
def uri():
    with postgresql() as uri:
        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("select setseed(0.5)")
            cursor.execute(
                "create table t as select g, g % 5 as firm, random() as x, (random() * 10)::numeric(6, 3) as amount,"
                " case g % 3 when 0 then 'Oslo' when 1 then 'Rome' end as city, now() as at, gen_random_uuid() as id,"
                f" '{{}}'::jsonb as note, 0::float8 as y from generate_series(1, {ROWS}) g"
            )
            cursor.execute("update t set y = 1 + 2 * x - 0.5 * amount + random()")
            connection.commit()
        yield uri


def refusal(uri, query):
    with pytest.raises(InputError) as error:
        open_table(uri, reading=Reading(query=query))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_and_types_are_those_of_the_query(uri):
    source = open_table(uri, reading=Reading(query="select g, x, amount, city, at, id, note from t order by g"))
    kinds = ["int32", "double", "double", "string", "timestamp[us, tz=UTC]", "fixed_size_binary[16]", "string"]
    assert [str(field.type) for field in source.schema] == kinds
    rows = pa.Table.from_batches([piece.batch for piece in source.pieces(["g", "amount", "city"])])
    assert rows["g"].to_pylist() == list(range(1, ROWS + 1))
    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("select amount::float8 as amount, city from t order by g")
        expected = cursor.fetch_arrow_table()
    assert rows["amount"].to_pylist() == expected["amount"].to_pylist()
    assert rows["city"].null_count == expected["city"].null_count == ROWS // 3


def test_several_passes_see_the_same_rows(uri):
    data = Table(uri, target="y", features=["x", "amount"], query="select x, amount, y from t", standardize=False)
    before = data.raw("train")[0]
    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("create table other as select 1")
        cursor.execute("delete from t where g > 10")  # never committed
    assert before.equal(data.raw("train")[0])


@pytest.mark.parametrize("processes", [1, 2])
def test_fit_is_that_of_numpy(uri, tmp_path, processes):
    query = "select x, amount, y from t"
    outcome = on_processes(processes, tmp_path, *EXACT, "--data.path", uri, "--data.query", query).succeeded()
    source = open_table(uri, reading=Reading(query=query))
    x, amount, y = (np.concatenate([p.batch[n].to_numpy() for p in source.pieces([n])]) for n in ("x", "amount", "y"))
    expected = np.linalg.lstsq(np.column_stack([x, amount, np.ones(ROWS)]), y, rcond=None)[0]
    np.testing.assert_allclose(list(outcome.coefficients.values()), expected, rtol=1e-9)


def test_processes_that_got_other_rows_are_refused(uri, tmp_path):
    query = "select x, amount, random() as y from t"
    flags = ("--data.path", uri, "--data.query", query, "--config", CONFIGS / "trainer/ddp_cpu.yaml")
    outcome = Forked(tmp_path, *EXACT, *flags, "--trainer.devices", 2, processes=2).end()
    assert outcome.status == 1
    assert f"error: {uri}: processes got different rows: add an order by to --data.query" in outcome.stderr


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (None, "is a database: say which rows"),
        ("select nothing from t", 'column "nothing" does not exist'),
        ("delete from t returning g", "cannot execute DELETE in a read-only transaction"),
        ("select 1; select 2", "cannot insert multiple commands"),
        ("select 1 / (g - 50000) as x from t", "division by zero"),
        ("select 1 as x where false", "has no rows"),
    ],
)
def test_wrong_queries_are_refused(uri, query, said):
    assert said in refusal(uri, query)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("/postgres?", "/nowhere?"), 'database "nowhere" does not exist'),
        (("host=", "host=/nowhere"), "No such file or directory"),
        (("?host=", "?port=1&host="), "No such file or directory"),
    ],
)
def test_database_that_is_not_there_is_refused(uri, change, said):
    assert said in refusal(uri.replace(*change), "select 1")
