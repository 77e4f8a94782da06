"""``train.py shuffle``: every row once, in random order, without temporary files left behind."""

import datetime
import errno
import importlib
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from tests.support.commands import REPOSITORY

PEAK = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
del sys.argv[0]
from linreg_pl.__main__ import main
main()
assert "torch" not in sys.modules
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # KiB
"""


def mixed(num_rows):
    """A table of many types, with nulls, sorted by ``row``."""
    rng = np.random.default_rng(1)
    row = np.arange(num_rows)
    gaps = rng.random(num_rows) < 0.1
    names = np.array(["low", "mid", "högh", "", "a much longer name"])
    return pa.table(
        {
            "row": row,
            "x": pa.array(rng.normal(size=num_rows), mask=gaps),
            "small": pa.array(row % 100, pa.int8()),
            "float32": rng.normal(size=num_rows).astype(np.float32),
            "name": pa.array(names[row % 5], mask=gaps),
            "level": pa.array(names[row % 3], mask=gaps).dictionary_encode(),
            "yes": pa.array(row % 2 == 0, mask=gaps),
            "when": pa.array(row * 10**9 + 1, pa.timestamp("ns", "UTC"), mask=gaps),
            "day": pa.array([datetime.date(2020, 1, 1 + i % 28) for i in range(num_rows)]),
            "list": pa.array([[i] * (i % 3) for i in range(num_rows)]),
            "nothing": pa.nulls(num_rows),
        }
    )


def shuffled(linreg, source, *flags, out="out.parquet"):
    """Shuffle and read the result, which must be the only new file."""
    outcome = linreg("shuffle", source, out, *flags).succeeded()
    present = {path.name for path in outcome.cwd.iterdir()}
    table = parquet.read_table(outcome.cwd / out)
    assert outcome.stdout == f"{table.num_rows:,} rows, shuffled, in {out}\n"
    assert out in present
    assert not any(name.startswith(".") for name in present)
    return table


def spread(values):
    """Standard deviation of the means of batches of 64."""
    return values[: len(values) // 64 * 64].reshape(-1, 64).mean(axis=1).std()


@pytest.mark.parametrize("memory", [1, 256])
@pytest.mark.parametrize("name", ["in.parquet", "in.feather"])
def test_every_row_once_with_all_types_and_nulls(linreg, tmp_path, name, memory):
    table = mixed(20_000)
    path = tmp_path / name
    if name == "in.parquet":
        parquet.write_table(table, path, row_group_size=1000)
    else:
        feather.write_feather(table, path, chunksize=1000)
    result = shuffled(linreg, path, "--memory", memory)
    expected = parquet.read_schema(path) if path.suffix == ".parquet" else table.schema
    assert result.schema.names == table.schema.names
    assert [t for t in result.schema.types if not pa.types.is_list(t)] == [
        t for t in expected.types if not pa.types.is_list(t)
    ]  # Parquet names a list's items "element"
    assert result["row"].to_pylist() != table["row"].to_pylist()
    assert result.sort_by("row").to_pylist() == table.to_pylist()


@pytest.mark.parametrize("at_once", [2, 128])
def test_a_table_of_many_chunks(linreg, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(importlib.import_module("linreg_pl.tables.shuffle"), "BUCKETS", at_once)
    rng = np.random.default_rng(0)
    x = rng.integers(1000, size=(200_000, 6)).astype(float)  # 10 MiB, many rows twice
    parquet.write_table(pa.table(list(x.T), names=list("abcdef")), tmp_path / "in.parquet")
    result = np.stack([column.to_numpy() for column in shuffled(linreg, "in.parquet", "--memory", "1").columns], axis=1)
    np.testing.assert_array_equal(result[np.lexsort(result.T)], x[np.lexsort(x.T)])


@pytest.mark.parametrize("memory", [1, 256])
def test_order_is_random(linreg, tmp_path, memory):
    rows = np.arange(2**18)
    parquet.write_table(pa.table({"row": rows, "y": rows * 0.5}), tmp_path / "in.parquet", row_group_size=10_000)
    result = shuffled(linreg, "in.parquet", "--memory", memory)["row"].to_numpy()
    reference = spread(np.random.default_rng(5).permutation(rows).astype(float))
    assert spread(result.astype(float)) == pytest.approx(reference, rel=0.15)
    assert abs(np.corrcoef(result, rows)[0, 1]) < 5 / np.sqrt(len(rows))
    assert abs(np.corrcoef(result[:-1], result[1:])[0, 1]) < 5 / np.sqrt(len(rows))
    # Fixed points of a random permutation are 1 on average, and 9 or more once in a million.
    assert np.count_nonzero(result == rows) < 9


@pytest.mark.parametrize("memory", [1, 256])
def test_the_same_seed_gives_the_same_file(linreg, tmp_path, memory):
    parquet.write_table(mixed(20_000), tmp_path / "in.parquet", row_group_size=1000)
    flags = "--memory", memory, "--seed"
    first = shuffled(linreg, "in.parquet", *flags, 3, out="a.parquet")
    shuffled(linreg, "in.parquet", *flags, 3, out="b.parquet")
    other = shuffled(linreg, "in.parquet", *flags, 4, out="c.pq")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert first["row"] != other["row"]
    assert first.sort_by("row") == other.sort_by("row")


def test_csv(linreg, tmp_path):
    table = mixed(3000).select(["row", "x", "name"])
    csv.write_csv(table, tmp_path / "in.csv")
    expected = csv.read_csv(tmp_path / "in.csv", convert_options=csv.ConvertOptions(strings_can_be_null=True))
    assert shuffled(linreg, "in.csv").sort_by("row") == expected


@pytest.mark.parametrize("given", ["in", "in/*"])
def test_files_of_several_formats_and_types_are_one_table(linreg, tmp_path, given):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("x,name,none\n1,one,\n2,,\n")
    parquet.write_table(pa.table({"name": ["p"], "none": [0.5], "x": [3.5]}), tmp_path / "in/b.parquet")
    feather.write_feather(pa.table({"x": [4], "name": ["f"], "none": pa.nulls(1)}), tmp_path / "in/c.feather")
    table = shuffled(linreg, given)
    assert table.schema.types == [pa.float64(), pa.string(), pa.float64()]
    assert sorted(map(repr, table.to_pylist())) == [
        "{'x': 1.0, 'name': 'one', 'none': None}",
        "{'x': 2.0, 'name': None, 'none': None}",
        "{'x': 3.5, 'name': 'p', 'none': 0.5}",
        "{'x': 4.0, 'name': 'f', 'none': None}",
    ]


@pytest.mark.parametrize("num_columns", [1, 1000])
def test_row_groups_are_moderate(linreg, tmp_path, num_columns):
    rows = round(300_000 / num_columns**0.5)
    table = pa.table({f"x{i}": np.arange(rows) for i in range(num_columns)})
    feather.write_feather(table, tmp_path / "in.feather", chunksize=5000)
    shuffled(linreg, "in.feather")
    metadata = parquet.read_metadata(tmp_path / "out.parquet")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    most = min(2**16, 2**25 // (8 * num_columns))
    assert most // 2 <= min(sizes)
    assert max(sizes) <= most


REFUSED = {
    "in.csv there.parquet": "there.parquet: already exists: remove it, or name another file",
    "in.csv dangling.parquet": "dangling.parquet: already exists: remove it, or name another file",
    "in.csv in.csv": "in.csv: OUT must end in .parquet or .pq",
    "in.csv nowhere/out.parquet": "nowhere/out.parquet: there is no folder nowhere: create it first",
    ". out.parquet": "out.parquet: would become part of .: choose another folder",
    "./*.p* out.parquet": "out.parquet: would become part of ./*.p*: choose another folder",
    "absent.csv out.parquet": "absent.csv: no such file",
    "in.csv out.parquet --depth 3": "unrecognized arguments: --depth 3; see python train.py shuffle --help",
    "in.csv": "the following arguments are required: OUT; see python train.py shuffle --help",
    "in.csv out.parquet --seed x": "argument --seed: invalid int value: 'x'; see python train.py shuffle --help",
    "in.csv out.parquet --seed -1": "--seed -1: must be zero or a positive number",
    "in.csv out.parquet --memory 0": "--memory 0: must be a positive number",
    "two out.parquet": "two/b.csv: has a column 'z', which two/a.csv does not have",
    "types out.parquet": "types: cannot be shuffled: Unable to merge: Field x has incompatible types",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refusals_are_one_line_and_write_nothing(linreg, tmp_path, line):
    files = {"in.csv": "x\n1\n2\n", "two/a.csv": "x\n1\n", "two/b.csv": "x,z\n1,2\n"}
    for name, text in (files | {"types/a.csv": "x\n1\n", "types/b.csv": "x\none\n"}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "there.parquet")
    (tmp_path / "dangling.parquet").symlink_to("nowhere.parquet")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()}
    outcome = linreg("shuffle", *line.split())
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"error: {REFUSED[line]}")
    assert outcome.stderr.count("\n") == 1
    assert before == {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()}


def test_help(linreg):
    outcome = linreg("shuffle", "--help").succeeded()
    assert all(word in outcome.stdout for word in ("IN", "OUT", "--seed", "--memory", "256"))


def test_a_full_disk_leaves_nothing(linreg, tmp_path, monkeypatch):
    def full(*_):
        assert any(path.name.startswith(".out.parquet-") for path in tmp_path.iterdir())
        raise OSError(errno.ENOSPC, "No space left on device")

    parquet.write_table(mixed(20_000), tmp_path / "in.parquet", row_group_size=1000)
    monkeypatch.setattr(os, "fsync", full)
    outcome = linreg("shuffle", "in.parquet", "out.parquet", "--memory", 1)
    assert outcome.stderr == (
        "error: out.parquet: cannot be written from in.parquet: No space left on device;"
        " free as much space there as the uncompressed table takes\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_temporary_file_that_cannot_be_written_leaves_nothing(linreg, tmp_path):
    parquet.write_table(mixed(20_000), tmp_path / "in.parquet", row_group_size=1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))  # Python ignores SIGXFSZ, so that writing fails
    try:
        outcome = linreg("shuffle", "in.parquet", "out.parquet", "--memory", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.stderr == "error: out.parquet: cannot be written from in.parquet: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_damaged_file_is_named(linreg, tmp_path):
    parquet.write_table(pa.table({"x": np.random.default_rng(0).random(10**5)}), tmp_path / "in.parquet")
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    data[100:200_000] = bytes(199_900)
    (tmp_path / "in.parquet").write_bytes(data)
    outcome = linreg("shuffle", "in.parquet", "out.parquet")
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: ")
    assert "in.parquet: " in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_nothing(tmp_path, stop):
    x = np.random.default_rng(0).random(2_000_000)
    parquet.write_table(pa.table(dict.fromkeys("abc", x)), tmp_path / "in.parquet")
    command = [sys.executable, str(REPOSITORY / "train.py"), "shuffle", "in.parquet", "out.parquet", "--memory", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".out.parquet-*/finished")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(stop)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 128 + stop
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_and_torch_not_imported(launch, tmp_path):
    rng = np.random.default_rng(0)
    schema = pa.schema([("row", pa.int64()), *((f"x{i}", pa.float64()) for i in range(9))])
    with parquet.ParquetWriter(tmp_path / "in.parquet", schema, use_dictionary=False, compression="none") as writer:
        for start in range(0, 4_000_000, 100_000):  # 300 MiB
            columns = [np.arange(start, start + 100_000), *rng.random((9, 100_000))]
            writer.write_table(pa.table(columns, schema=schema))
    outcome = launch("shuffle", "in.parquet", "out.parquet", "--memory", 64, launcher=("-c", PEAK)).succeeded()
    assert int(outcome.stdout.split()[-1]) / 2**10 < 300
    rows = parquet.read_table(tmp_path / "out.parquet", columns=["row"])["row"].to_numpy()
    np.testing.assert_array_equal(np.sort(rows), np.arange(4_000_000))
