"""Tables read piece by piece, against pyarrow reading whole files."""

import gc
import itertools
import pickle
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from linreg_pl import system
from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.tables import csv_files
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.sources import ArrowFile, rows_at_once
from tests.support.tables import write_table

ROWS = 20_000
BLOCK = 2**20  # bytes from which pyarrow infers the types of a CSV file that is read into memory
LARGE_BLOCK = 2**23  # and of one that is converted


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    return pa.table(
        {
            "x": random.normal(size=ROWS),
            "count": np.arange(ROWS),
            "city": random.choice(["Oslo", "Rome", "Paris"], ROWS),
        }
    )


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(path, table):
    write_table(table, path, path.suffix.removeprefix("."), rows=3000)
    return path


def read(source, names, *share):
    """Return the numbers and the rows of a process."""
    pieces = list(source.pieces(names, *share))
    starts = [np.arange(piece.start, piece.start + piece.batch.num_rows) for piece in pieces]
    rows = pa.Table.from_batches([piece.batch.select(names) for piece in pieces])
    return np.concatenate(starts), rows.combine_chunks()


def refusal(path, flag="--data.path"):
    with pytest.raises(InputError) as error:
        open_table(path, flag)
    return str(error.value)


class StoredAs:
    """Ways to store the same rows: one file, several files in a folder, a pattern."""

    @staticmethod
    def file(folder, suffix, table):
        return write(folder / f"t{suffix}", table)

    @staticmethod
    def folder(folder, suffix, table):
        for number, start in enumerate(range(0, ROWS, 7000)):
            write(folder / f"{number}{suffix}", table.slice(start, 7000))
        (folder / "README.txt").write_text("not a table")
        return folder

    @staticmethod
    def pattern(folder, suffix, table):
        write(folder / "other.csv", table.slice(0, 1))
        StoredAs.folder(folder, suffix, table)
        return folder / f"[0-9]{suffix}"


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("stored_as", [StoredAs.file, StoredAs.folder, StoredAs.pattern])
@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
def test_shares_are_the_table(tmp_path, table, suffix, stored_as, world_size):
    source = open_table(stored_as(tmp_path, suffix, table))
    assert (source.num_rows, sum(source.units)) == (ROWS, ROWS)
    assert len(source.units) > 1
    numbers, shares = zip(
        *(read(source, table.column_names, rank, world_size) for rank in range(world_size)), strict=True
    )
    for rows, share in zip(numbers, shares, strict=True):
        assert (np.diff(rows) > 0).all()
        assert share.equals(table.take(rows).combine_chunks())
    assert sorted(itertools.chain(*(rows.tolist() for rows in numbers))) == list(range(ROWS))


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
def test_columns_asked_for_are_there_whatever_their_order(tmp_path, table, suffix):
    source = open_table(write(tmp_path / f"t{suffix}", table))
    for names in (["city"], ["count", "x"], ["city", "count", "x"]):
        assert read(source, names)[1].equals(table.select(names).combine_chunks())


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_pieces_of_a_large_unit_are_small(tmp_path, suffix):
    table = pa.table({"x": np.arange(300_000)})
    path = tmp_path / f"t{suffix}"
    write = {".parquet": parquet.write_table, ".feather": feather.write_feather}[suffix]
    write(table, path, **{{".parquet": "row_group_size", ".feather": "chunksize"}[suffix]: 300_000})
    source = open_table(path)
    assert list(source.units) == [300_000]
    sizes = [piece.batch.num_rows for piece in source.pieces(["x"])]
    assert max(sizes) <= rows_at_once(1) < 300_000
    numbers, rows = read(source, ["x"])
    np.testing.assert_array_equal(numbers, np.arange(300_000))
    assert rows.equals(table.combine_chunks())


def test_more_processes_than_units_leave_some_without_rows(tmp_path):
    source = open_table(write(tmp_path / "t.parquet", pa.table({"x": [1.0, 2.0]})))
    assert [len(list(source.pieces(["x"], rank, 3))) for rank in range(3)] == [1, 0, 0]


def test_empty_files_and_row_groups_do_not_shift_the_numbers(tmp_path):
    whole = pa.table({"x": [1.0, 2.0, 3.0]})
    for number, part in enumerate([whole.slice(0, 0), whole.slice(0, 2), whole.slice(0, 0), whole.slice(2)]):
        parquet.write_table(part, tmp_path / f"{number}.parquet")
    with parquet.ParquetWriter(tmp_path / "4.parquet", whole.schema) as writer:
        for part in (whole.slice(0, 0), whole.slice(1, 1)):
            writer.write_table(part)
    numbers, rows = read(open_table(tmp_path), ["x"])
    assert numbers.tolist() == [0, 1, 2, 3]
    assert rows["x"].to_pylist() == [1.0, 2.0, 3.0, 2.0]


class TestWhere:
    def test_row_of_a_file_counts_from_1(self, tmp_path, table):
        source = open_table(write(tmp_path / "t.parquet", table))
        assert source.where(0) == "row 1"
        assert source.where(ROWS - 1) == f"row {ROWS}"

    def test_row_of_some_files_is_counted_in_its_own(self, tmp_path, table):
        source = open_table(StoredAs.folder(tmp_path, ".parquet", table))
        for row, place in {0: (0, 1), 6999: (0, 7000), 7000: (1, 1), 14_000: (2, 1), 19_999: (2, 6000)}.items():
            assert source.where(row) == f"{tmp_path / f'{place[0]}.parquet'}, row {place[1]}"


class TestFiles:
    """Several files."""

    def test_columns_are_matched_by_name(self, tmp_path, table):
        write(tmp_path / "a.parquet", table)
        write(tmp_path / "b.feather", table.select(["city", "count", "x"]))
        numbers, rows = read(open_table(tmp_path), ["x", "city"])
        np.testing.assert_array_equal(numbers, np.arange(2 * ROWS))
        assert rows.equals(pa.concat_tables([table, table]).select(["x", "city"]).combine_chunks())

    def test_missing_column_is_named(self, tmp_path, table):
        first, second = (tmp_path / f"{name}.parquet" for name in "ab")
        write(first, table)
        write(second, table.drop_columns(["count"]))
        assert refusal(tmp_path) == f"{second}: has no column 'count', which {first} has"

    def test_date_in_one_and_number_in_the_other_is_refused(self, tmp_path):
        first, second = (tmp_path / f"{name}.parquet" for name in "ab")
        parquet.write_table(pa.table({"x": pa.array([0], pa.date32())}), first)
        parquet.write_table(pa.table({"x": [1]}), second)
        assert refusal(tmp_path) == f"{second}: column 'x' is of type int64, but date32[day] in {first}"

    def test_pattern_without_files_is_refused(self, tmp_path):
        assert refusal(tmp_path / "*.csv") == f"{tmp_path}/*.csv: no file matches this pattern (--data.path)"

    def test_name_that_looks_like_a_pattern_is_a_file(self, tmp_path, table):
        path = write(tmp_path / "t[1].parquet", table)
        assert open_table(path).num_rows == ROWS


def csv_file(path, values, filler, block):
    """Write a file of one column whose last values come after the first block."""
    repeats = block // (len(filler) + 1) + 2
    path.write_text("\n".join(["x", *[filler] * repeats, *values]) + "\n")
    return path, repeats


@pytest.mark.parametrize("large", [False, True])
class TestCsv:
    """CSV files read into memory, and those converted into an Arrow file."""

    @pytest.fixture(autouse=True)
    def limit(self, large, monkeypatch, temporary):
        if large:
            monkeypatch.setattr(csv_files, "LARGE", 1)

    def test_content_is_that_of_pyarrow(self, tmp_path, table, large):
        path = write(tmp_path / "t.csv", table)
        source = open_table(path)
        assert isinstance(source, ArrowFile) == large
        assert source.name == str(path)
        assert read(source, table.column_names)[1].equals(csv.read_csv(path).combine_chunks())

    @pytest.mark.parametrize(
        ("filler", "values", "kind"),
        [
            ("1" * 64, ["0.5"], pa.float64()),
            ("123", ["0.5", "7"], pa.float64()),
            ("123", ["Oslo"], pa.string()),
            ("123", ["0.5", "Oslo"], pa.string()),
            ("0.5", ["Oslo"], pa.string()),
            ("true", ["Oslo"], pa.string()),
            ("2020-01-01", ["Oslo"], pa.string()),
            ("123", ["NA"], pa.int64()),
            ("123", ["9223372036854775808"], pa.float64()),  # 2^63
        ],
    )
    def test_type_may_turn_out_later(self, tmp_path, filler, values, kind, large):
        path, repeats = csv_file(tmp_path / "t.csv", [*values, filler], filler, LARGE_BLOCK if large else BLOCK)
        source = open_table(path)
        assert source.schema.field("x").type == kind
        rows = read(source, ["x"])[1]["x"]
        assert len(rows) == repeats + len(values) + 1
        as_kind = {pa.float64(): float, pa.string(): str, pa.int64(): int}[kind]
        expected = [None if value == "NA" else as_kind(value) for value in [filler, *values, filler]]
        assert rows.slice(repeats - 1).to_pylist() == expected

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("x,y\n", "{path}: has no rows"),
            ("x,y", "{path}: has no rows"),
            ("x,y\n1,2\n3\n", "{path}: row 2: has 1 values for 2 columns"),
            ("x,x\n1,2\n", "{path}: 2 columns are named 'x': rename all but one"),
            ("", "{path}: is empty"),
        ],
    )
    def test_bad_file_is_refused_and_leaves_nothing(self, tmp_path, temporary, text, sentence, large):
        path = tmp_path / "t.csv"
        path.write_text(text)
        assert refusal(path) == sentence.format(path=path)
        gc.collect()
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize("text", ["größe,y\n1,2\n2,3\n", "city,y\nKöln,2\nBonn,3\n"])
    def test_text_that_is_not_utf8_is_refused(self, tmp_path, text, large):
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError):
            Table(str(path), target="y", categorical=["city"] if text.startswith("city") else [])


class TestLargeCsv:
    """The conversion of a large file, and its temporary file."""

    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch):
        monkeypatch.setattr(csv_files, "LARGE", 1)

    @pytest.fixture(params=["nameless", "named"])
    def named(self, request, monkeypatch):
        """Whether the temporary file must have a name."""
        if request.param == "named":
            monkeypatch.setattr(system, "OPEN_FILES", "/nowhere")
        return request.param == "named"

    def test_file_lasts_as_long_as_the_source(self, tmp_path, temporary, table, named):
        gc.collect()
        before = len(list(Path("/proc/self/fd").iterdir()))
        source = open_table(write(tmp_path / "t.csv", table))
        assert len(list(temporary.iterdir())) == named  # without a name, even a killed process leaves none
        assert read(source, ["count"])[1]["count"].to_pylist() == list(range(ROWS))
        del source
        gc.collect()
        assert list(temporary.iterdir()) == []
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_processes_that_this_one_starts_find_the_file(self, tmp_path, temporary, table, named):
        source = open_table(write(tmp_path / "t.csv", table))
        code = "import pickle, sys; print(sum(p.batch.num_rows for p in pickle.load(sys.stdin.buffer).pieces(['x'])))"
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
        assert int(done.stdout) == ROWS  # as ddp_spawn hands it on

    def test_full_disk_is_reported_and_leaves_nothing(self, tmp_path, temporary, table):
        path = write(tmp_path / "t.csv", table)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))  # Python ignores SIGXFSZ, so that writing fails
        try:
            sentence = refusal(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sentence == (
            f"{path}: cannot be converted into a temporary file in {temporary}: File too large; set TMPDIR"
        )
        assert list(temporary.iterdir()) == []

    def test_interrupt_leaves_nothing(self, tmp_path, temporary, table, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(pa.ipc, "new_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_table(write(tmp_path / "t.csv", table))
        assert list(temporary.iterdir()) == []

    def test_text_that_is_not_utf8_later_on_is_refused(self, tmp_path, temporary):
        path = tmp_path / "t.csv"
        path.write_bytes(b"x\n" + (b"b" * 1000 + b"\n") * (LARGE_BLOCK // 1000) + "Köln\n".encode("latin-1"))
        assert str(path) in refusal(path)


def test_path_is_a_path_or_text(tmp_path, table):
    path = write(tmp_path / "t.parquet", table)
    assert open_table(Path(path)).schema == open_table(str(path)).schema == table.schema


def test_flag_is_named(tmp_path):
    assert refusal(tmp_path / "t.csv", "IN") == f"{tmp_path / 't.csv'}: no such file (IN)"
