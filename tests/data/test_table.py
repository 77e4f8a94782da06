import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import feather, parquet

from linreg_pl.data.table import Table
from linreg_pl.errors import InputError

PARTS = ("train", "val", "test")


@pytest.fixture
def columns():
    random = np.random.default_rng(0)
    return {"size": random.normal(80, 20, 40), "age": random.integers(0, 90, 40), "price": random.normal(300, 50, 40)}


@pytest.fixture
def path(tmp_path, columns):
    return write(tmp_path / "houses.csv", columns)


MISSING = "the value is missing; fill it in, or set --data.missing drop or mean"
BESIDES = "besides the target 'y' (--data.features, --data.categorical); it has 'y' (int64)"


def write(path, columns):
    table = pa.table(columns)
    match path.suffix:
        case ".csv":
            lines = [",".join(columns), *(",".join(map(repr, row.values())) for row in table.to_pylist())]
            path.write_text("\n".join(lines) + "\n")
        case ".parquet":
            parquet.write_table(table, path)
        case ".feather":
            feather.write_feather(table, path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_every_format_gives_the_same_numbers(tmp_path, columns, suffix):
    data = Table(str(write(tmp_path / f"houses{suffix}", columns)), target="price")
    X, y = data.raw("train")
    assert data.feature_names == ["size", "age"]
    np.testing.assert_array_equal(X, np.column_stack([columns["size"], columns["age"]]))
    np.testing.assert_array_equal(y[:, 0], columns["price"])


@pytest.mark.parametrize("suffix", [".CSV", ".pq", ".arrow"])
def test_other_endings_of_the_formats_are_known(tmp_path, columns, suffix):
    usual = {".CSV": ".csv", ".pq": ".parquet", ".arrow": ".feather"}[suffix]
    path = write(tmp_path / f"houses{usual}", columns).rename(tmp_path / f"houses{suffix}")
    np.testing.assert_array_equal(Table(str(path), target="price").raw("train")[1][:, 0], columns["price"])


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.bool_(), pa.decimal128(5, 2)])
def test_every_type_of_number_is_read(tmp_path, kind):
    values = [0, 1, 1]
    table = {"x": pa.array(values).cast(pa.float64()).cast(kind), "y": [1.0, 2.0, 3.0]}
    X, _ = Table(str(write(tmp_path / "t.parquet", table)), target="y").raw("train")
    np.testing.assert_array_equal(X[:, 0].double(), values)


def test_chosen_features_come_in_the_order_asked_for(path, columns):
    X, _ = Table(str(path), target="price", features=["age", "size"]).raw("train")
    np.testing.assert_array_equal(X, np.column_stack([columns["age"], columns["size"]]))


def test_columns_that_are_not_numbers_are_left_out(tmp_path, columns):
    names = [f"house {number}" for number in range(40)]
    data = Table(str(write(tmp_path / "t.parquet", {"name": names, **columns})), target="price")
    assert (data.feature_names, data.left_out) == (["size", "age"], ["name"])


def test_parts_are_disjoint_and_cover_the_table(path, columns):
    data = Table(str(path), target="price", val_fraction=0.25, test_fraction=0.1, standardize=False)
    targets = {part: data.raw(part)[1][:, 0].tolist() for part in PARTS}
    assert {part: len(values) for part, values in targets.items()} == {"train": 26, "val": 10, "test": 4}
    assert sorted(itertools.chain(*targets.values())) == sorted(columns["price"])
    assert {part: data.num_rows(part) for part in PARTS} == {"train": 26, "val": 10, "test": 4}


def test_rows_of_a_part_keep_the_order_of_the_file(path, columns):
    y = Table(str(path), target="price", val_fraction=0.25).raw("val")[1][:, 0].tolist()
    places = [columns["price"].tolist().index(value) for value in y]
    assert places == sorted(places)


def test_seed_alone_decides_the_split(path):
    def validation_rows(seed):
        return Table(str(path), target="price", val_fraction=0.25, seed=seed).raw("val")[1].tolist()

    torch.manual_seed(1)
    first = validation_rows(0)
    torch.manual_seed(2)
    assert validation_rows(0) == first
    assert validation_rows(1) != first


def test_predict_takes_every_row_in_order(path, columns):
    data = Table(str(path), target="price", val_fraction=0.25, test_fraction=0.25)
    X, _ = data.raw("predict")
    assert data.num_rows("predict") == 40
    np.testing.assert_array_equal(X[:, 0], columns["size"])


def test_moments_are_those_of_the_training_rows(path, columns):
    data = Table(str(path), target="price", val_fraction=0.5)
    data.setup("fit")
    train = data.raw("train")[0].numpy()
    np.testing.assert_allclose(data.scaling.mean, train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.scaling.scale, train.std(axis=0), rtol=1e-12)
    assert abs(data.scaling.mean[0] - columns["size"].mean()) > 0.1  # not those of all rows
    for part in ("train", "val"):
        expected = (data.raw(part)[0].numpy() - train.mean(axis=0)) / train.std(axis=0)
        np.testing.assert_allclose(data.rows(part)[:].X, expected, atol=1e-6)


def test_state_holds_the_moments_as_plain_numbers(path):
    data = Table(str(path), target="price")
    data.setup("fit")
    mean, scale = data.scaling
    state = data.state_dict()
    assert state == {
        "feature_names": ["size", "age"],
        "target_name": "price",
        "num_train": 40,
        "columns": {
            "features": ["size", "age"],
            "levels": {},
            "means": {},
            "missing": "error",
            "unknown": "error",
            "time_unit": "days",
        },
        "kinds": {"size": "numbers", "age": "numbers"},
        "mean_weight": 1.0,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
    }


def test_without_standardize_columns_stay_as_they_are(path, columns):
    data = Table(str(path), target="price", standardize=False)
    data.setup("fit")
    np.testing.assert_array_equal(data.rows("train")[:].X[:, 0], columns["size"].astype(np.float32))
    assert "mean" not in data.state_dict()


def test_large_offsets_are_standardised_in_float64(tmp_path):
    x = 1e9 + np.arange(5)  # float32 would see one value
    data = Table(str(write(tmp_path / "t.parquet", {"x": x, "y": x})), target="y")
    data.setup("fit")
    atol = 1e9 * np.finfo(np.float64).eps  # the mean's last digit
    np.testing.assert_allclose(data.rows("train")[:].X[:, 0], (np.arange(5) - 2) / np.sqrt(2), rtol=1e-6, atol=atol)


# Everything below: what is wrong is said in one sentence that names file, column and row.

BAD_CSV = {
    "missing": (
        "x,y\n1,2\n,3\n5,4\n",
        f"{{path}}: column 'x', row 2: {MISSING}",
    ),
    "missing target": (
        "x,y\n1,2\n3,\n5,4\n",
        f"{{path}}: column 'y', row 2: {MISSING}",
    ),
    "nan": (
        "x,y\n1,2\n2,3\nnan,4\n",
        f"{{path}}: column 'x', row 3: {MISSING}",
    ),
    "text": ("x,y\n1,2\nfoo,3\n5,4\n", "{path}: column 'x', row 2: 'foo' is not a number"),
    "text target": ("x,y\n1,2\n3,?\n", "{path}: column 'y', row 2: '?' is not a number"),
    "inf": ("x,y\n1,2\ninf,3\n", "{path}: column 'x', row 2: inf is not a finite number"),
    "minus inf": ("x,y\n1,2\n2,-inf\n", "{path}: column 'y', row 2: -inf is not a finite number"),
    "duplicate columns": ("x,x,y\n1,2,2\n2,3,3\n", "{path}: 2 columns are named 'x': rename all but one"),
    "empty": ("", "{path}: is empty"),
    "header only": ("x,y\n", "{path}: has no rows"),
    "header without end of line": ("x,y", "{path}: has no rows"),
    "semicolons": ("x;y\n1;2\n2;3\n", "{path}: one column named 'x;y': set --data.delimiter ';'"),
    "tabs": ("x\ty\n1\t2\n", "{path}: one column named 'x\\ty': set --data.delimiter '\\t'"),
    "constant column": (
        "x,z,y\n1,2,3\n1,3,4\n1,4,4\n",
        "column 'x' has one value only, so it cannot be standardised: leave it out of --data.features",
    ),
    "constant column that float64 rounds": (
        "x,z,y\n" + "".join(f"0.1,{i},{i * i}\n" for i in range(30)),
        "column 'x' has one value only, so it cannot be standardised: leave it out of --data.features",
    ),
    "target alone": (
        "y\n1\n2\n",
        f"{{path}}: has no numeric column {BESIDES}",
    ),
    "integer that float64 skips": (
        "x,y\n1,2\n9007199254740993,3\n",
        "{path}: column 'x', row 2: 9007199254740993 is beyond 2^53, where float64 skips integers; rescale the column",
    ),
    "large negative integer": (
        "x,y\n-9007199254740995,2\n1,3\n",
        "{path}: column 'x', row 1: -9007199254740995 is beyond 2^53, where float64 skips integers; rescale the column",
    ),
}


def refusal(path, **arguments):
    with pytest.raises(InputError) as error:
        fit_rows(Table(str(path), **({"target": "y"} | arguments)))
    return str(error.value)


def fit_rows(data):
    data.setup("fit")
    return data.rows("train")


@pytest.mark.parametrize(("text", "sentence"), BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_is_refused(tmp_path, text, sentence):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert refusal(path) == sentence.format(path=path)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [("oops", "'oops' is not a number"), ("", f"{MISSING}")],
)
def test_fault_after_the_first_block_of_a_csv_is_named_too(tmp_path, bad, sentence):
    path = tmp_path / "long.csv"
    before = "".join(f"{row},{row}\n" for row in range(120_000))
    assert len(before) > 2**20  # pyarrow takes the types from the first MiB
    path.write_text(f"x,y\n{before}{bad},3\n1,2\n")
    assert refusal(path) == f"{path}: column 'x', row 120001: {sentence}"


def test_number_type_may_change_after_the_first_block(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("x,y\n" + "".join(f"{row},{row}\n" for row in range(120_000)) + "0.5,1\n")
    X, _ = Table(str(path), target="y").raw("train")
    assert (X[119_999, 0].item(), X[120_000, 0].item()) == (119_999.0, 0.5)


def test_row_of_the_wrong_length_is_named(tmp_path):
    path = tmp_path / "ragged.csv"
    path.write_text("x,y\n1,2\n2\n3,4\n")
    sentence = refusal(path)
    assert sentence.startswith(f"{path}: row 2")
    assert "\n" not in sentence


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        ([1.0, None, 2.0], f"row 2: {MISSING}"),
        ([1.0, 2.0, float("nan")], f"row 3: {MISSING}"),
        ([1.0, float("inf"), float("nan")], "row 2: inf is not a finite number"),
    ],
)
def test_bad_value_in_a_binary_file_is_refused(tmp_path, suffix, x, sentence):
    path = write(tmp_path / f"t{suffix}", {"x": x, "y": [1.0, 2.0, 3.0]})
    assert refusal(path, standardize=False) == f"{path}: column 'x', {sentence}"


def test_number_beyond_float32_is_refused(tmp_path):
    path = write(tmp_path / "t.parquet", {"x": [1.0, 2.0, 1e39], "y": [1.0, 2.0, 3.0]})
    sentence = refusal(path, standardize=False)  # as a float32 it would be infinite
    assert "column 'x'" in sentence
    assert "1e+39" in sentence


def test_text_asked_for_as_a_feature_is_refused(tmp_path):
    path = write(tmp_path / "t.parquet", {"x": ["a", "b"], "y": [1.0, 2.0]})
    said = f"{path}: column 'x', row 1: 'a' is not a number; a feature that holds names can be --data.categorical"
    assert refusal(path, features=["x"]) == said


def test_what_is_neither_number_nor_date_is_refused(tmp_path):
    hours = pa.array([0, 1], pa.int32()).cast(pa.time32("s"))
    path = write(tmp_path / "t.parquet", {"x": hours, "y": [1.0, 2.0]})
    assert refusal(path, features=["x"]) == f"{path}: column 'x' is of type time32[ms], not numbers"


def test_binary_file_without_rows_is_refused(tmp_path):
    path = write(tmp_path / "t.parquet", {"x": pa.array([], pa.float64()), "y": pa.array([], pa.float64())})
    assert refusal(path) == f"{path}: has no rows"


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_content_that_is_not_of_the_format_is_refused(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    path.write_text("x,y\n1,2\n")
    sentence = refusal(path)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"features": ["sise"]}, "{path}: has no column 'sise' (--data.features); did you mean 'size'?"),
        (
            {"features": ["rooms"]},
            "{path}: has no column 'rooms' (--data.features); it has 'size', 'age', 'price'",
        ),
        ({"target": "prize"}, "{path}: has no column 'prize' (--data.target); did you mean 'price'?"),
        ({"features": ["size", "price"]}, "--data.features: contains the target 'price'"),
        ({"features": ["size", "age", "size"]}, "--data.features: names column 'size' twice"),
        ({"val_fraction": 1.0}, "--data.val_fraction 1.0: must be at least 0 and less than 1"),
        ({"test_fraction": -0.1}, "--data.test_fraction -0.1: must be at least 0 and less than 1"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            "--data.val_fraction and --data.test_fraction: leave no rows to train on",
        ),
        ({"val_fraction": 0.99}, "there are no train rows: use fewer for validation and testing"),
        ({"batch_size": 0}, "--data.batch_size 0: must be a positive number"),
    ],
)
def test_arguments_that_do_not_fit_the_table_are_refused(path, arguments, sentence):
    assert refusal(path, **({"target": "price"} | arguments)) == sentence.format(path=path)


def test_file_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "nope.csv"
    assert refusal(path) == f"{path}: no such file (--data.path)"


def test_folder_without_tables_is_refused(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: is a folder without CSV, Parquet or Feather files (--data.path)"


def test_unknown_ending_is_refused(tmp_path):
    path = tmp_path / "t.xlsx"
    path.write_text("x,y\n1,2\n")
    assert refusal(path).startswith(f"{path}: --data.path must end in .csv, .tsv or .jsonl")


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ("validate", "there are no val rows: set --data.val_fraction"),
        ("test", "there are no test rows: set --data.test_fraction"),
    ],
)
def test_stage_without_rows_is_refused(path, stage, sentence):
    with pytest.raises(InputError) as error:
        Table(str(path), target="price").setup(stage)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"bias": [1.0, 2.0]}, "'bias' is the name of the intercept in every report"),
        ({"a": ["x", "b=c"], "a=b": ["c", "A"]}, "'a=b=c' is the name of two columns of X"),
    ],
)
def test_names_that_would_be_mistaken_are_refused(tmp_path, columns, sentence):
    path = write(tmp_path / "t.parquet", columns | {"y": [1.0, 2.0]})
    categorical = [name for name in columns if name != "bias"]
    levels = {"a": ["x", "b=c"], "a=b": ["A", "c"]} if categorical else None
    assert refusal(path, categorical=categorical, levels=levels) == f"{path}: {sentence}; rename the column"
