"""The columns of X, against numpy, datetime and decimal."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.tables.columns import Columns
from linreg_pl.tables.sources import InMemory
from linreg_pl.tables.values import find_levels, numeric_names

CITIES = ["Paris", "Oslo", "Rome"]


def design(others=(), columns=None, **data):
    """Return the columns of X of a table, shape ``(n, k)``; by default all of its columns but the others."""
    source = InMemory("t", pa.table(data))
    columns = columns or Columns([name for name in data if name not in others])
    (piece,) = source.pieces([*columns.features, *others])
    return columns.design(source, piece, others).T


def refusal(**arguments):
    with pytest.raises(InputError) as error:
        design(**arguments)
    return str(error.value)


def by_city(**others):
    return Columns(["city"], {"city": CITIES}, **others)


class TestLevels:
    def test_columns_are_ones_and_zeros_without_the_reference(self):
        columns = by_city()
        X = design(columns=columns, city=["Rome", "Paris", "Oslo", "Rome"])
        assert columns.names == ["city=Oslo", "city=Rome"]
        assert X.tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]

    def test_columns_of_levels_take_the_place_of_the_feature(self):
        columns = Columns(["x", "city", "z"], {"city": CITIES})
        X = design(columns=columns, z=[3.0, 4.0], x=[1.0, 2.0], city=["Oslo", "Paris"])
        assert columns.names == ["x", "city=Oslo", "city=Rome", "z"]
        assert X.tolist() == [[1, 1, 0, 3], [2, 0, 0, 4]]

    @pytest.mark.parametrize(
        ("values", "levels"),
        [
            (pa.array(["b", "a", "C", "é", ""]), ["", "C", "a", "b", "é"]),
            (pa.array([10, 9, -1]), ["-1", "9", "10"]),
            (pa.array([True, False]), ["false", "true"]),
            (pa.array([2.5, -1.5]), ["-1.5", "2.5"]),
            (pa.array([datetime.date(2021, 1, 1), datetime.date(2020, 12, 31)]), ["2020-12-31", "2021-01-01"]),
            (pa.array([Decimal("10.5"), Decimal("9.5")]), ["9.5", "10.5"]),
        ],
        ids=["text", "integers", "bool", "floats", "dates", "decimals"],
    )
    def test_levels_are_in_the_order_of_their_values(self, values, levels):
        assert find_levels({"x": values}) == {"x": levels}

    def test_levels_are_learned_from_the_training_rows(self, tmp_path):
        random = np.random.default_rng(0)
        city, y = random.choice(CITIES, 200), random.normal(size=200)
        parquet.write_table(pa.table({"row": np.arange(200), "city": city, "y": y}), tmp_path / "t.parquet")
        data = Table(
            str(tmp_path / "t.parquet"), target="y", features=["row", "city"], categorical=["city"], val_fraction=0.3
        )
        assert data.feature_names == ["row", "city=Paris", "city=Rome"]
        for part, count in (("train", 140), ("val", 60)):
            X = data.raw(part)[0].numpy()
            expected = np.column_stack([city == "Paris", city == "Rome"])[X[:, 0].astype(int)]
            assert len(X) == count
            np.testing.assert_array_equal(X[:, 1:], expected)

    def test_level_of_held_out_rows_alone_is_unknown(self, tmp_path):
        random = np.random.default_rng(0)
        table = pa.table({"city": random.choice(CITIES, 100), "y": random.normal(size=100)})
        parquet.write_table(table, tmp_path / "t.parquet")
        arguments = {"target": "y", "categorical": ["city"], "val_fraction": 0.5}
        held_out = int((Table(str(tmp_path / "t.parquet"), **arguments).split.parts(0, 100) == 1).nonzero()[0])
        city = table["city"].to_pylist()
        city[held_out] = "Bonn"
        parquet.write_table(table.set_column(0, "city", pa.array(city)), tmp_path / "t.parquet")
        data = Table(str(tmp_path / "t.parquet"), **arguments)
        assert data.feature_names == ["city=Paris", "city=Rome"]
        with pytest.raises(InputError, match=f"column 'city', row {held_out + 1}: 'Bonn' is not among the levels"):
            data.raw("val")

    def test_unknown_level_is_refused(self):
        assert refusal(columns=by_city(), city=["Oslo", "Bonn"]) == (
            "t: column 'city', row 2: 'Bonn' is not among the levels of the training rows ('Paris', 'Oslo', 'Rome');"
            " --data.unknown ignore takes it for the reference level"
        )

    def test_unknown_level_is_the_reference_if_asked_for(self):
        assert design(columns=by_city(unknown="ignore"), city=["Bonn", "Rome"]).tolist() == [[0, 0], [0, 1]]

    @pytest.mark.parametrize("missing", ["error", "mean"])
    @pytest.mark.parametrize("unknown", ["error", "ignore"])
    def test_missing_level_is_refused(self, missing, unknown):
        sentence = refusal(columns=by_city(missing=missing, unknown=unknown), city=["Oslo", None])
        assert sentence.startswith("t: column 'city', row 2: the value is missing; ")
        assert "--data.missing drop" in sentence

    @pytest.mark.parametrize("unknown", ["error", "ignore"])
    def test_missing_level_is_nan_if_rows_are_dropped(self, unknown):
        X = design(columns=by_city(missing="drop", unknown=unknown), city=["Oslo", None])
        np.testing.assert_array_equal(X, [[1, 0], [np.nan, np.nan]])

    def test_nan_is_not_a_level(self):
        columns = Columns(["x"], {"x": ["1.5", "2.5"]}, missing="drop")
        np.testing.assert_array_equal(design(columns=columns, x=[2.5, float("nan")]), [[1], [np.nan]])

    @pytest.mark.parametrize("values", [pa.array(["Rome", None]), pa.array(["Rome", None], pa.large_string())])
    @pytest.mark.parametrize("encoded", [False, True])
    def test_text_may_have_other_types(self, values, encoded):
        values = values.dictionary_encode() if encoded else values
        X = design(columns=by_city(missing="drop"), city=values)
        np.testing.assert_array_equal(X, [[0, 1], [np.nan, np.nan]])

    @pytest.mark.parametrize(
        "codes",
        [
            pa.array(["1", "3", "2"]),
            pa.array([1, 3, 2], pa.int32()),
            pa.array(["1", "3", "2"], pa.large_string()),
        ],
    )
    def test_files_may_have_levels_of_different_types(self, tmp_path, codes):
        y = [1.0, 2.0, 4.0]
        first = ["1", "2", "1"] if pa.types.is_large_string(codes.type) else [1, 2, 1]
        parquet.write_table(pa.table({"code": first, "y": y}), tmp_path / "a.parquet")
        parquet.write_table(pa.table({"code": codes, "y": y}), tmp_path / "b.parquet")
        data = Table(str(tmp_path), target="y", categorical=["code"])
        assert data.feature_names == ["code=2", "code=3"]


MISSING = {
    "nan": [1.0, float("nan")],
    "null": [1.0, None],
    "null integer": [1, None],
    "null bool": [True, None],
    "null decimal": [Decimal("1.0"), None],
    "null date": [datetime.date(1970, 1, 2), None],
    "null time": pa.array([86400, None], pa.timestamp("s")),
    "null text": ["1", None],
    "empty text": ["1", " "],
    "nan as text": ["1", "nan"],
    "null in a dictionary": pa.array([1.0, None]).dictionary_encode(),
}


class TestMissing:
    @pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
    def test_it_is_refused(self, values):
        sentence = "t: column 'x', row 2: the value is missing; fill it in, or set --data.missing drop or mean"
        assert refusal(x=values) == sentence

    @pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
    def test_it_is_nan_if_rows_are_dropped(self, values):
        np.testing.assert_array_equal(design(columns=Columns(["x"], missing="drop"), x=values), [[1], [np.nan]])

    @pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
    def test_it_is_replaced_by_the_mean(self, values):
        columns = Columns(["x"], means={"x": 2.5}, missing="mean")
        assert design(columns=columns, x=values).tolist() == [[1], [2.5]]

    def test_missing_target_is_not_replaced(self):
        columns = Columns(["x"], means={"x": 2.5, "y": 1.0}, missing="mean")
        sentence = refusal(columns=columns, others=["y"], x=[1.0, None], y=[1.0, None])
        assert sentence == (
            "t: column 'y', row 2: the value is missing; only numeric features are replaced by their mean;"
            " --data.missing drop leaves such rows out"
        )

    def test_infinity_is_not_missing(self):
        for missing in ("drop", "mean"):
            columns = Columns(["x"], means={"x": 0.0}, missing=missing)
            assert refusal(columns=columns, x=[float("nan"), float("-inf")]) == (
                "t: column 'x', row 2: -inf is not a finite number"
            )

    @pytest.fixture
    def path(self, tmp_path):
        random = np.random.default_rng(0)
        x, z, y = random.normal(size=(3, 1000))
        absent = random.random((2, 1000)) < 0.1
        table = {
            "row": np.arange(1000),
            "x": pa.array(x, mask=absent[0]),
            "z": z,
            "city": pa.array(random.choice(CITIES, 1000), mask=absent[1]),
            "y": y,
        }
        parquet.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=300)
        return tmp_path / "t.parquet"

    def test_rows_of_a_table_are_dropped_and_counted(self, path):
        data = Table(str(path), target="y", categorical=["city"], missing="drop", val_fraction=0.25)
        frame = parquet.read_table(path).to_pandas()
        parts = data.split.parts(0, 1000).numpy()
        for part, number in (("train", 0), ("val", 1)):
            data.setup({"train": "fit", "val": "validate"}[part])
            kept = frame[parts == number].dropna()
            X, y = data.raw(part)
            assert data.num_rows(part) == len(kept) == len(X)
            np.testing.assert_array_equal(X[:, :3], kept[["row", "x", "z"]])
            np.testing.assert_array_equal(y[:, 0], kept["y"])
        assert data.missing_values == {
            "columns": frame[["x", "city"]].isna().sum().to_dict(),
            "done": "drop",
            "rows_left_out": 1000 - len(frame.dropna()),
        }

    def test_mean_is_that_of_the_training_rows(self, path):
        data = Table(str(path), target="y", features=["x", "z"], missing="mean", val_fraction=0.25)
        data.setup("fit")
        x = parquet.read_table(path)["x"].to_numpy()
        training = data.split.parts(0, 1000).numpy() == 0
        mean = np.nanmean(x[training])
        assert data.columns.means["x"] == pytest.approx(mean, rel=1e-12)
        np.testing.assert_allclose(data.raw("val")[0][:, 0], np.where(np.isnan(x), mean, x)[~training])

    def test_all_values_of_a_file_may_be_missing(self, tmp_path):
        for name, x in {"a": pa.array([1.0, 2.0, 3.0]), "b": pa.nulls(3)}.items():
            parquet.write_table(pa.table({"x": x, "y": [1.0, 2.0, 4.0]}), tmp_path / f"{name}.parquet")
        data = Table(str(tmp_path), target="y", missing="drop")
        data.setup("fit")
        assert data.num_rows("train") == 3


SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
MOMENTS = [
    datetime.datetime(1970, 1, 1),
    datetime.datetime(1969, 12, 31, 23, 59, 59),
    datetime.datetime(2024, 2, 29, 12, 30, 15),
    datetime.datetime(1900, 1, 1, 6),
    datetime.datetime(2262, 4, 11, 23, 47, 16),  # the last whole second that nanoseconds reach
]


class TestTime:
    @pytest.mark.parametrize("time_unit", SECONDS)
    @pytest.mark.parametrize("kind", ["s", "ms", "us", "ns"])
    @pytest.mark.parametrize("zone", [None, "Europe/Oslo"])
    def test_moments_count_from_1970(self, time_unit, kind, zone):
        moments = [moment.replace(tzinfo=datetime.timezone.utc) for moment in MOMENTS]
        values = pa.array(moments, pa.timestamp("s", "UTC")).cast(pa.timestamp(kind, zone))
        X = design(columns=Columns(["t"], time_unit=time_unit), t=values)
        expected = [moment.timestamp() / SECONDS[time_unit] for moment in moments]
        np.testing.assert_allclose(X[:, 0], expected, rtol=1e-15, atol=2e-16)

    @pytest.mark.parametrize("time_unit", SECONDS)
    @pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
    def test_dates_count_from_1970(self, time_unit, kind):
        dates = [moment.date() for moment in MOMENTS]
        X = design(columns=Columns(["t"], time_unit=time_unit), t=pa.array(dates, kind))
        days = np.array(dates, "datetime64[D]").astype(int)
        np.testing.assert_array_equal(X[:, 0], days * 86400 / SECONDS[time_unit])

    @pytest.mark.parametrize(("kind", "ticks"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
    def test_fractions_of_seconds_count(self, kind, ticks):
        columns = Columns(["t"], time_unit="seconds")
        X = design(columns=columns, t=pa.array([1, -1, 1_700_000_000 * ticks + 1], pa.timestamp(kind)))
        np.testing.assert_allclose(X[:, 0], [1 / ticks, -1 / ticks, 1_700_000_000 + 1 / ticks], rtol=1e-15, atol=2e-16)

    def test_dates_are_features_if_asked_for(self, tmp_path):
        dates = [datetime.date(1970, 1, 1 + day) for day in range(4)]
        parquet.write_table(pa.table({"day": dates, "x": np.arange(4.0), "y": np.ones(4)}), tmp_path / "t.parquet")
        assert Table(str(tmp_path / "t.parquet"), target="y").left_out == ["day"]
        X, _ = Table(str(tmp_path / "t.parquet"), target="y", features=["day"]).raw("train")
        assert X.tolist() == [[0], [1], [2], [3]]


class TestDecimal:
    @pytest.mark.parametrize("kind", [pa.decimal128(15, 2), pa.decimal128(38, 4), pa.decimal256(50, 4)], ids=str)
    def test_decimal_becomes_the_nearest_float(self, kind):
        random = np.random.default_rng(0)
        values = [Decimal(int(digits)).scaleb(-2) for digits in random.integers(-(10**10), 10**10, 500)]
        X = design(x=pa.array(values, kind))
        np.testing.assert_allclose(X[:, 0], [float(value) for value in values], rtol=2**-52)

    @pytest.mark.parametrize("text", ["12345678901234567890", "0.1234567890123456789", "-1.00000000000000001"])
    def test_too_many_digits_are_refused(self, text):
        values = pa.array([Decimal("1"), None, Decimal(text)], pa.decimal128(38, 19 if "." in text else 0))
        sentence = refusal(columns=Columns(["x"], missing="drop"), x=values)
        assert sentence.startswith(f"t: column 'x', row 3: {text}")
        assert sentence.endswith(" has more digits than float64 holds; round the column")

    @pytest.mark.parametrize("text", ["0.1", "123.45", "-1000.01"])
    def test_trailing_zeros_are_not_digits(self, text):
        values = pa.array([Decimal(text)], pa.decimal128(38, 18))  # a usual type of databases
        assert design(x=values).item() == pytest.approx(float(text), rel=2**-52)


class TestNumbers:
    @pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1])
    @pytest.mark.parametrize("encoded", [False, True])
    def test_integer_that_float64_cannot_represent_is_refused(self, value, encoded):
        values = pa.array([1, None, value])
        values = values.dictionary_encode() if encoded else values
        sentence = f"{value} is beyond 2^53, where float64 skips integers; rescale the column"
        assert refusal(columns=Columns(["x"], missing="drop"), x=values) == f"t: column 'x', row 3: {sentence}"

    def test_unsigned_integer_is_refused_too(self):
        assert "row 1: 18446744073709551615 is beyond 2^53" in refusal(x=pa.array([2**64 - 1], pa.uint64()))

    @pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, 2**24 + 1])
    def test_smaller_integers_are_exact(self, value):
        assert int(design(x=[value]).item()) == value

    def test_bool_is_one_and_zero(self):
        assert design(x=[True, False]).tolist() == [[1], [0]]

    @pytest.mark.parametrize(
        "values",
        [
            pa.array([1.5, -2.0, 1.5]),
            pa.array([3, -4, 3], pa.int16()),
            pa.array(["1e3", " -2 ", "1e3"]),
        ],
        ids=["floats", "integers", "text"],
    )
    def test_a_dictionary_is_its_values(self, values):
        np.testing.assert_array_equal(design(x=values.dictionary_encode()), design(x=values))

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    def test_numbers_may_be_text(self, kind):
        assert design(x=pa.array(["1", "-2.5", "1e3", " 7 "], kind))[:, 0].tolist() == [1, -2.5, 1000, 7]

    def test_text_has_the_same_limits(self):
        assert "9007199254740993 is beyond 2^53" in refusal(x=["9007199254740993"])

    def test_underscores_of_python_are_refused(self):
        assert refusal(x=["1_000"]) == (
            "t: column 'x', row 1: '1_000' is not a number; a feature that holds names can be --data.categorical"
        )

    @pytest.mark.parametrize(
        ("kinds", "dtype"),
        [
            ((pa.float32(), pa.float32()), np.float32),
            ((pa.float16(), pa.float32()), np.float32),
            ((pa.float32(), pa.float64()), np.float64),
            ((pa.float32(), pa.int8()), np.float64),
        ],
    )
    def test_precision_is_that_of_the_file(self, kinds, dtype):
        data = {
            name: pa.array(np.array([1, 2], kind.to_pandas_dtype())) for name, kind in zip("xy", kinds, strict=True)
        }
        assert design(others=["y"], **data).dtype == dtype
        columns = Columns(["city", "x"], {"city": CITIES})
        assert design(others=["y"], columns=columns, city=["Oslo", "Rome"], **data).dtype == dtype

    def test_numeric_columns_are_found(self):
        source = InMemory(
            "t",
            pa.table(
                {
                    "integer": [1, None],
                    "bool": [True, False],
                    "decimal": [Decimal("1.5")] * 2,
                    "date": [datetime.date(2020, 1, 1)] * 2,
                    "text": ["a", "b"],
                    "number or fault": ["?", "2"],
                    "double": [1.0, 2.0],
                }
            ),
        )
        assert numeric_names(source) == ["integer", "bool", "decimal", "number or fault", "double"]
