"""Folders whose names tell columns, against pyarrow.dataset."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import parquet

from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.tables.opening import open_table


def write(root, folders):
    """Write a file of three rows into each folder."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        table = pa.table({"x": np.arange(3.0) + 10 * number, "y": np.arange(3.0) ** 2})
        parquet.write_table(table, root / folder / "part-0.parquet", row_group_size=2)
    return root


def read(path, names=None, **options):
    source = open_table(path, **options)
    return pa.Table.from_batches([piece.batch for piece in source.pieces(names or source.schema.names)])


def test_columns_are_those_of_pyarrow(tmp_path):
    root = write(tmp_path, [f"year={y}/month={m:02}/region={r}" for y in (2023, 2024) for m in (1, 12) for r in "ns"])
    expected = ds.dataset(root, partitioning="hive").to_table().sort_by("x")
    found = read(root).sort_by("x")
    assert found.select(expected.column_names).cast(expected.schema).equals(expected)
    assert [field.type for field in found.schema][2:] == [pa.int64(), pa.int64(), pa.string()]
    assert read(root, ["region", "y"]).column_names == ["region", "y"]
    assert read(root, ["year"])["year"].to_pylist() == [2023] * 12 + [2024] * 12  # no column of the files


def test_hidden_files_are_passed_over(tmp_path):
    root = write(tmp_path, ["a=1", "a=2", "_delta_log", ".tmp", "a=1/_temporary/b=2", "a=2/other", "plain"])
    for name in ("_SUCCESS", "._part.parquet", "a=1/.part-0.parquet.crc", "a=1/_x.parquet", "a=1/.y.csv", "README.md"):
        (root / name).write_text("no table")
    assert read(root)["a"].to_pylist() == [1, 1, 1, 2, 2, 2]


def test_names_are_decoded_and_may_be_missing(tmp_path):
    root = write(tmp_path, ["na%20me=a%2Fb%3D", "na%20me=__HIVE_DEFAULT_PARTITION__", "na%20me=x=y"])
    assert set(read(root)["na me"].to_pylist()) == {"a/b=", None, "x=y"}
    numbers = write(tmp_path / "numbers", ["k=-7", "k=__HIVE_DEFAULT_PARTITION__"])
    assert read(numbers)["k"].type == pa.int64()
    assert set(read(numbers)["k"].to_pylist()) == {-7, None}


def test_type_that_changes_is_text(tmp_path):
    root = write(tmp_path, ["year=2023", "year=unknown", "year=2024"])
    assert set(read(root)["year"].to_pylist()) == {"2023", "unknown", "2024"}
    data = Table(str(root), target="y", features=["year"], standardize=False)
    with pytest.raises(InputError, match=r"year=unknown/part-0.parquet, row 1: 'unknown' is not a number"):
        data.raw("train")


def test_codes_stay_text_where_they_are_levels(tmp_path):
    root = write(tmp_path, ["zip=01234", "zip=1234"])
    assert read(root)["zip"].unique().to_pylist() == [1234]
    assert read(root, categorical=["zip"])["zip"].unique().to_pylist() == ["01234", "1234"]


def test_folder_counts_before_the_file(tmp_path):
    root = write(tmp_path, ["x=5"])
    assert read(root)["x"].to_pylist() == [5, 5, 5]


def test_folders_must_be_alike(tmp_path):
    root = write(tmp_path, ["year=2023/region=s", "year=2024"])
    with pytest.raises(InputError) as error:
        open_table(root)
    assert "'region' is in the names of its folders or in those of" in str(error.value)


def test_pattern_tells_columns_from_its_first_wildcard_on(tmp_path):
    root = write(tmp_path, [f"year={y}/region={r}" for y in (2023, 2024) for r in "ns"])
    both = {"year", "region"}
    told = {"year=*/region=n/*.parquet": both, "year=2024/*/*": {"region"}, "**/*.parquet": both}
    for pattern, names in told.items():
        assert set(read(root / pattern).column_names) == {"x", "y"} | names


def test_error_names_the_file_and_its_row(tmp_path):
    root = write(tmp_path, ["a=1", "a=2"])
    parquet.write_table(pa.table({"x": [1.0, np.inf], "y": [1.0, 2.0]}), root / "a=2" / "part-0.parquet")
    with pytest.raises(InputError, match=r"a=2/part-0.parquet, row 2: inf is not a finite number"):
        Table(str(root), target="y", standardize=False).raw("train")
