"""CSV files as they come, and JSON lines, against pandas."""

import bz2
import gzip
import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from linreg_pl.errors import InputError
from linreg_pl.tables import csv_files, json_files
from linreg_pl.tables.opening import open_table
from linreg_pl.tables.reading import Reading

ROWS = 3000
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda x: pa.compress(x, "zstd", asbytes=True),
}
GERMAN = Reading(delimiter=";", decimal=",", thousands=".", encoding="latin-1")


@pytest.fixture(params=["in memory", "converted"], autouse=True)
def large(request, monkeypatch):
    if request.param == "converted":
        monkeypatch.setattr(csv_files, "LARGE", 1)
        monkeypatch.setattr(csv_files, "BLOCK", 2**14)
        monkeypatch.setattr(json_files, "LARGE", 2**14)


@pytest.fixture(scope="module")
def frame():
    random = np.random.default_rng(0)
    big = random.integers(-3_000_000, 3_000_000, ROWS)
    big[:1000] %= 1000  # none of the first needs a mark
    x = np.round(random.normal(size=ROWS) * 5000, 2)
    return pd.DataFrame({"x": x, "größe": big, "stadt": random.choice(["Köln", "Bonn"], ROWS)})


def german(frame):
    """As a German office writes it."""
    marks = str.maketrans(",.", ".,")
    columns = {"x": frame["x"].map("{:,.2f}".format), "größe": frame["größe"].map("{:,}".format)}
    return frame.assign(**{name: texts.str.translate(marks) for name, texts in columns.items()}).to_csv(
        index=False, sep=";"
    )


def read(path, reading=None):
    source = open_table(path, reading=reading)
    rows = pa.Table.from_batches([piece.batch for piece in source.pieces(source.schema.names)])
    return rows.to_pandas().astype({name: object for name in rows.column_names if rows[name].type == pa.string()})


def refusal(path, **flags):
    with pytest.raises(InputError) as error:
        open_table(path, reading=Reading(**flags))
    return str(error.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv", "|")])
def test_delimiters_and_compressions(tmp_path, frame, suffix, delimiter, compression):
    path = tmp_path / f"t{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](frame.to_csv(index=False, sep=delimiter).encode()))
    reading = Reading(delimiter="|") if delimiter == "|" else None
    pd.testing.assert_frame_equal(read(path, reading), frame, check_dtype=False)


def test_german_office(tmp_path, frame):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(german(frame).encode("latin-1")))
    pd.testing.assert_frame_equal(read(path, GERMAN), frame, check_dtype=False)
    expected = pd.read_csv(io.StringIO(german(frame)), sep=";", decimal=",", thousands=".")
    pd.testing.assert_frame_equal(read(path, GERMAN), expected, check_dtype=False)


def test_thousands_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n" + '"1,234","1,5","12",\n"-7","2,000.5","1,2,3","1,000"\n' * 2)
    source = open_table(path, reading=Reading(thousands=","))
    assert [field.type for field in source.schema] == [pa.int64(), pa.string(), pa.string(), pa.int64()]
    rows = read(path, Reading(thousands=","))
    assert rows["a"].tolist() == [1234, -7] * 2
    assert rows["d"].fillna(0).tolist() == [0, 1000] * 2


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u202f", "'"])
def test_other_marks_of_thousands(tmp_path, space):
    path = tmp_path / "t.csv"
    path.write_text(f"x,y\n1{space}234.5,2\n-3{space}000{space}000,3\n")
    assert read(path, Reading(thousands=space))["x"].tolist() == [1234.5, -3e6]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings(tmp_path, frame, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(frame.to_csv(index=False).encode(encoding))
    reading = None if encoding == "utf-8-sig" else Reading(encoding=encoding)  # a byte-order mark needs no flag
    pd.testing.assert_frame_equal(read(path, reading), frame, check_dtype=False)


def test_null_values(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,?\n-,2\nNA,3\n")
    missing = read(path, Reading(null_values=["?", "-", "NA"])).isna()
    assert missing.to_numpy().tolist() == [[False, True], [True, False], [True, False]]


@pytest.mark.parametrize(
    ("text", "flags", "sentence"),
    [
        ("x;y\n1;2\n", {}, "one column named 'x;y': set --data.delimiter ';'"),
        ("x;y\n1,5;2,5\n", {}, "one column named 'x;y': set --data.delimiter ';'"),
        ("x\ty\n1\t2\n", {}, r"one column named 'x\ty': set --data.delimiter '\t'"),
        ("x,y\n1,2\n", {"delimiter": ";"}, "one column named 'x,y': set --data.delimiter ','"),
        (
            "x;y\n1,5;2\n2;3\n",
            {"delimiter": ";"},
            "column 'x' has numbers such as '1,5': set --data.decimal ','; or set --data.decimal . to keep them as"
            " text",
        ),
        (
            "x;y\n1,500;2\n2;3\n",
            {"delimiter": ";"},
            "column 'x' has numbers such as '1,500': set --data.thousands ',' or --data.decimal ','; or set"
            " --data.decimal . to keep them as text",
        ),
        ("x,y\nK\xf6ln,2\n", {"encoding": "ascii"}, "is not UTF-8 text: …"),
    ],
)
def test_another_form_is_recognised(tmp_path, text, flags, sentence):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="latin-1")
    if sentence.endswith("…"):
        assert str(path) in refusal(path, **flags)
    else:
        assert refusal(path, **flags) == f"{path}: {sentence}"


def test_text_with_commas_can_stay_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;y\n1,5;2\n2,5;3\n")
    assert read(path, Reading(delimiter=";", decimal="."))["x"].tolist() == ["1,5", "2,5"]
    path.write_text('x,y\n"1,5 and 3",2\n"2",3\n')
    assert read(path)["x"].tolist() == ["1,5 and 3", "2"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"delimiter": ";;"}, "--data.delimiter ';;': must be one character, and no letter, digit, sign or quote"),
        ({"delimiter": "é"}, "--data.delimiter 'é': must be one character, and no letter, digit, sign or quote"),
        ({"thousands": "3"}, "--data.thousands '3': must be one character, and no letter, digit, sign or quote"),
        ({"delimiter": ",", "decimal": ","}, "--data.decimal ',': is --data.delimiter too"),
        ({"thousands": "."}, "--data.thousands .: is the decimal point too; set --data.decimal ','"),
        ({"encoding": "klingon"}, "--data.encoding klingon: there is no such encoding; try latin-1"),
    ],
)
def test_flags_that_cannot_be(tmp_path, flags, sentence):
    assert refusal(tmp_path, **flags) == sentence


class TestJsonLines:
    """An object a line."""

    @pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonl.gz"])
    def test_content_is_that_of_pandas(self, tmp_path, frame, suffix):
        text = frame.to_json(orient="records", lines=True, force_ascii=False)
        path = tmp_path / f"t{suffix}"
        path.write_bytes(COMPRESS[suffix[6:] if suffix.endswith("gz") else ""](text.encode()))
        pd.testing.assert_frame_equal(read(path), frame, check_dtype=False)

    def test_types_and_keys_may_turn_out_later(self, tmp_path):
        rows = [{"x": None, "y": 1}] * 1000 + [{"x": 2, "y": 0.5, "z": "a"}] * 1000 + [{"y": 3}] * 1000
        path = tmp_path / "t.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))  # the last line without an end
        found = read(path)
        assert found["x"].sum() == 2000
        assert found["y"].tolist() == [1] * 1000 + [0.5] * 1000 + [3] * 1000
        assert found["z"].notna().sum() == 1000

    @pytest.mark.parametrize("text", ['[{"x": 1}, {"x": 2}]', '{"x": 1', '{"x": 1}\n{"x": "a"}\n' * 2000, "x,y\n1,2\n"])
    def test_what_is_none_is_refused(self, tmp_path, text):
        path = tmp_path / "t.jsonl"
        path.write_text(text)
        sentence = refusal(path)
        assert sentence.startswith(f"{path}: JSON parse error") or "convert JSON" in sentence
        assert "\n" not in sentence
