"""Tables on an S3 server and over http: files, folders, patterns, and what goes wrong there."""

import bz2
import tempfile
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from linreg_pl.errors import InputError
from linreg_pl.tables import csv_files, places
from linreg_pl.tables.opening import open_table
from tests.support.services import BUCKET
from tests.support.tables import write_table

ROWS = 6000
CODECS = {"gz": "gzip", "zst": "zstd"}
PATHS = ["{0}", "{0}/", "{0}/part-*.{0}", "{0}/part-[0-2].*", "*/part-?.{0}", "**/part-[012].{0}"]


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    return pa.table({"x": random.normal(size=ROWS), "city": random.choice(["Oslo", "Rome"], ROWS)})


def as_bytes(table, suffix):
    sink = pa.BufferOutputStream()
    write_table(table, sink, suffix.split(".")[0], rows=1000)
    content = sink.getvalue().to_pybytes()
    for ending in suffix.split(".")[1:]:
        content = bz2.compress(content) if ending == "bz2" else pa.compress(content, CODECS[ending], asbytes=True)
    return content


@pytest.fixture(scope="module")
def stored(s3, table):
    """Objects of every form, the rows of the table in each folder."""
    for suffix in ("csv", "parquet", "feather", "csv.gz", "csv.zst", "csv.bz2"):
        for number, start in enumerate(range(0, ROWS, 2500)):
            s3.put(f"{suffix}/part-{number}.{suffix}", as_bytes(table.slice(start, 2500), suffix))
        s3.put(f"{suffix}/_part-9.{suffix}", as_bytes(table, suffix))
        s3.put(f"{suffix}/inner/part-9.{suffix}", as_bytes(table, suffix))
    s3.put("a b/x=1#?[1].parquet", as_bytes(table, "parquet"))
    return f"s3://{BUCKET}"


def rows_of(path, names=("city", "x"), **options):
    source = open_table(path, **options)
    shares = [piece.batch for rank in range(2) for piece in source.pieces(list(names), rank, 2)]
    numbers = [
        np.arange(piece.start, piece.start + piece.batch.num_rows)
        for rank in range(2)
        for piece in source.pieces(list(names), rank, 2)
    ]
    return pa.Table.from_batches(shares).take(np.argsort(np.concatenate(numbers))).combine_chunks()


def refusal(path, **options):
    with pytest.raises(InputError) as error:
        open_table(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather", "csv.gz", "csv.zst", "csv.bz2"])
@pytest.mark.parametrize(
    "path", ["{0}", "{0}/", "{0}/part-*.{0}", "{0}/part-[0-2].*", "*/part-?.{0}", "**/part-[012].{0}"]
)
def test_folders_and_patterns_are_the_table(stored, table, suffix, path):
    assert rows_of(f"{stored}/{path.format(suffix)}").equals(table.select(["city", "x"]).combine_chunks())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather", "csv.gz"])
def test_file_is_the_same_as_here(stored, s3, table, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "LARGE", 1)  # so that CSV is converted
    here = tmp_path / f"t.{suffix}"
    here.write_bytes(s3.get(f"{suffix}/part-0.{suffix}"))
    there = open_table(f"{stored}/{suffix}/part-0.{suffix}")
    assert (there.schema, list(there.units)) == (open_table(here).schema, list(open_table(here).units))
    assert rows_of(there.name).equals(rows_of(here))
    assert there.where(0) == "row 1"


def test_odd_names_are_taken_as_they_stand(stored, table):
    assert rows_of(f"{stored}/a b/x=1#?[1].parquet").equals(table.select(["city", "x"]).combine_chunks())


def test_row_groups_too_large_for_memory_are_read_in_pieces(stored, table, monkeypatch):
    monkeypatch.setattr("linreg_pl.tables.sources.WHOLE_BYTES", 1)
    source = open_table(f"{stored}/parquet/part-0.parquet")
    assert not source.whole
    assert rows_of(source.name).num_rows == 2500


def test_http_is_read_too(s3, stored, table):
    uri = f"http://127.0.0.1:{s3.port}/{BUCKET}"
    for name in ("csv.gz/part-0.csv.gz", "parquet/part-0.parquet", "csv/part-0.csv?token=a"):
        assert rows_of(f"{uri}/{name}").equals(table.slice(0, 2500).select(["city", "x"]).combine_chunks())
    assert refusal(f"{uri}/csv/none.csv") == f"{uri}/csv/none.csv: no such file (--data.path)"
    assert "Cannot connect" in refusal("http://127.0.0.1:1/x.csv")


def test_file_uri_is_a_file(tmp_path, table):
    parquet.write_table(table, tmp_path / "t.parquet")
    assert rows_of(f"file://{tmp_path}/t.parquet").num_rows == ROWS


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("s3://tables/none.csv", "{path}: no such file (--data.path)"),
        ("s3://tables/csv/*.none", "{path}: no file matches this pattern (--data.path)"),
        ("s3://tables/a b/none/**", "{path}: no file matches this pattern (--data.path)"),
        ("s3://nowhere/t.csv", "{path}: there is no bucket 'nowhere' (--data.path)"),
        ("s3://nowhere/*.csv", "{path}: there is no bucket 'nowhere' (--data.path)"),
        ("s3:///t.csv", "{path}: Missing bucket name in S3 URI"),
        ("nope://a/t.csv", "{path}: there is no way to this place (Protocol not known: nope) (--data.path)"),
    ],
)
def test_what_is_not_there_is_refused(stored, path, sentence):
    assert refusal(path) == sentence.format(path=path)


@pytest.mark.parametrize(
    "uri", ["s3://key:hush@tables/t.csv", "postgresql://me:hush@host/db", "sqlite:///a?password=hush"]
)
def test_passwords_are_refused_and_not_repeated(uri):
    sentence = refusal(uri)
    assert sentence.startswith(f"--data.path {uri.split(':')[0]}://…: contains a password")
    assert "hush" not in sentence


def test_folder_of_mixed_schemas_is_refused(s3):
    for name, column in (("a", "x"), ("b", "z")):
        s3.put(f"mixed/{name}.parquet", as_bytes(pa.table({column: [1.0]}), "parquet"))
    assert refusal(f"s3://{BUCKET}/mixed").endswith(
        "b.parquet: has no column 'x', which s3://tables/mixed/a.parquet has"
    )


class TestFaults:
    """A server that is down, slow, or cuts the connection."""

    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path, monkeypatch, stored):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        yield
        assert list(tmp_path.iterdir()) == []

    def test_down(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert "Could not connect to server" in refusal(f"s3://{BUCKET}/csv/part-0.csv")

    def test_silent(self, faulty, monkeypatch):
        monkeypatch.setattr(places, "SILENT_SECONDS", 1)
        faulty.silent = True
        assert "Timeout was reached" in refusal(f"s3://{BUCKET}/csv/part-0.csv")

    def test_never_answers(self, faulty, monkeypatch):
        monkeypatch.setattr(places, "LIMIT_SECONDS", 0.2)
        monkeypatch.setattr(places, "SILENT_SECONDS", 1)
        faulty.silent = True
        assert refusal(path := f"s3://{BUCKET}/csv") == f"{path}: does not answer within 0.2 seconds"

    def test_cut(self, faulty):
        faulty.sends = 50_000
        sentence = refusal(f"s3://{BUCKET}/csv/part-0.csv")
        assert sentence.startswith(f"s3://{BUCKET}/csv/part-0.csv: ")

    def test_cut_in_the_middle_of_a_pass(self, faulty):
        source = open_table(f"s3://{BUCKET}/parquet/part-0.parquet")
        pieces = source.pieces(["x"])
        next(pieces)
        faulty.sends = 0
        with pytest.raises(InputError, match=rf"s3://{BUCKET}/parquet/part-0.parquet: "):
            list(pieces)

    def test_credentials_are_missing(self, faulty, monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", "/nowhere")
        faulty.only_signed = True
        sentence = refusal(f"s3://{BUCKET}/csv/part-0.csv")
        assert sentence.endswith("set credentials as is usual there, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_long_search_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("linreg_pl.tables.finding.NOTICE_SECONDS", 0)
    monkeypatch.setattr("glob.iglob", lambda *_, **__: time.sleep(0.5) or iter(()))
    refusal(f"{tmp_path}/**")
    assert capfd.readouterr().err == f"still looking for the files of {tmp_path}/** …\n"


class TestUpload:
    """A file appears whole or not at all."""

    def test_whole(self, s3, tmp_path):
        (tmp_path / "f").write_bytes(content := b"abc" * 2**20)
        places.upload(tmp_path / "f", places.locate(f"s3://{BUCKET}/up/f", "--predictions"))
        assert s3.get("up/f").to_pybytes() == content
        assert s3.keys("up/") == ["up/f"]

    def test_not_at_all(self, s3, faulty, tmp_path):
        (tmp_path / "f").write_bytes(b"abc" * 2**23)
        place = places.locate(f"s3://{BUCKET}/broken/f", "--predictions")
        faulty.takes = 2**23
        with pytest.raises(InputError, match=f"s3://{BUCKET}/broken/f: "):
            places.upload(tmp_path / "f", place)
        assert s3.keys("broken/") == []

    def test_not_at_all_if_the_error_is_here(self, s3, tmp_path, monkeypatch):
        def interrupted(source, target, size):
            target.write(b"abc")
            raise KeyboardInterrupt

        (tmp_path / "f").write_bytes(b"abc")
        place = places.locate(f"s3://{BUCKET}/interrupted/f", "--predictions")
        monkeypatch.setattr("shutil.copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            places.upload(tmp_path / "f", place)
        assert s3.keys("interrupted/") == []
