"""Damaged and random files: each is read, or refused in one sentence; nothing else comes out, and no code runs."""

import io
import shlex
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

from linreg_pl.cli import export, parser
from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.runs import report
from linreg_pl.runs.checkpoints import load_checkpoint
from tests.support.commands import CONFIGS, in_process

TABLE = pa.table(
    {
        "x": np.arange(40.0) ** 2 % 17,
        "n": np.arange(40),
        "town": pa.array(["Oslo", "Rome", None, "Köln"] * 10),
        "code": pa.array(["a", "b"] * 20).dictionary_encode(),
        "y": np.arange(40) % 7 + 0.5,
    }
)


def as_csv():
    rows = [",".join("" if value is None else str(value) for value in row.values()) for row in TABLE.to_pylist()]
    return "\n".join([",".join(TABLE.column_names), *rows]).encode()


def as_parquet(**options):
    file = io.BytesIO()
    parquet.write_table(TABLE, file, row_group_size=15, **options)
    return file.getvalue()


def as_feather(**options):
    file = io.BytesIO()
    feather.write_feather(TABLE, file, chunksize=15, **options)
    return file.getvalue()


FILES = {
    "plain.csv": as_csv(),
    "plain.parquet": as_parquet(compression="none", use_dictionary=False),
    "packed.parquet": as_parquet(),
    "plain.feather": as_feather(compression="uncompressed"),
    "packed.feather": as_feather(),
}


@contextmanager
def refused_in_one_line():
    """Let only one sentence pass."""
    said = ""
    try:
        yield
    except InputError as error:
        said = str(error)
    assert "\n" not in said


@st.composite
def damaged(draw, content):
    """The content with some bytes changed, left out or doubled, or its end cut off; seldom nonsense."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(result) - 1, 0)))
        length = draw(st.integers(0, 12))
        match draw(st.sampled_from(["change", "change", "change", "remove", "double", "cut"])):
            case "change":
                result[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "remove":
                del result[place : place + length]
            case "double":
                result[place:place] = result[place : place + length]
            case "cut":
                del result[place:]
    return bytes(result)


def use(path):
    """All that a fit and a prediction read of a table."""
    for flags in ({"categorical": ["town", "code"], "missing": "drop"}, {"features": ["x", "n"], "ids": ["town"]}):
        data = Table(str(path), target="y", val_fraction=0.2, **flags)
        data.setup("fit")
        for part in ("train", "val", "predict"):
            for batch in (make() for make in data.delayed_blocks(part)):
                assert batch.X.isfinite().all() or part == "predict"
        for text in data.state_dict()["columns"]["levels"].values():
            assert all(isinstance(level, str) for level in text)


@pytest.mark.parametrize("name", FILES)
@given(st.data())
def test_table(name, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data.draw(damaged(FILES[name])))
        with refused_in_one_line(), suppress(MemoryError):  # as it may say that it has any number of rows
            use(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, scratch_fit):
    """A run's checkpoint."""
    return (scratch_fit.run / "checkpoints/last.ckpt").read_bytes()


@given(st.data())
def test_checkpoint(checkpoint, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkpoints")
        folder.mkdir()
        (folder / "last.ckpt").write_bytes(data.draw(damaged(checkpoint)))
        for read in (lambda: load_checkpoint(folder / "last.ckpt"), lambda: export.as_json(export.read(Path(name)))):
            with refused_in_one_line():
                assert read()


SCRATCH = (CONFIGS / "scratch.yaml").read_text()
PIECES = [
    "model",
    "data",
    "trainer",
    "class_path",
    "init_args",
    "lr",
    "null",
    "[]",
    "{}",
    "1e999",
    "!!python/name:os.x",
]
PIECES += [
    "*a",
    "&a",
    ": ",
    "- ",
    "\n",
    "  ",
    "\t",
    "'",
    '"',
    "#",
    "--- ",
    "!!binary ",
    "? ",
    "<<: ",
    "2020-01-01",
    "~",
]


@st.composite
def configs(draw):
    """The config with words of YAML put in, and lines left out or moved."""
    lines = SCRATCH.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        column = draw(st.integers(0, len(lines[place])))
        match draw(st.sampled_from(["put", "put", "replace", "swap", "indent"])):
            case "put":
                lines[place] = lines[place][:column] + draw(st.sampled_from(PIECES)) + lines[place][column:]
            case "replace":
                lines[place] = draw(st.text(max_size=20))
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[place], lines[other] = lines[other], lines[place]
            case "indent":
                lines[place] = " " * draw(st.integers(0, 4)) + lines[place].lstrip()
    return "\n".join(lines)


@given(configs())
def test_config(text):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        with refused_in_one_line():
            parser.read_config(f"{folder}/x.yaml")
        outcome = in_process(Path(folder), "fit", "-c", "x.yaml", "--print_config")
        assert outcome.status in {0, 1, 2}
        assert (outcome.stderr.count("\n"), outcome.stderr[:7]) == ((1, "error: ") if outcome.status else (0, ""))


WORDS = [
    "fit",
    "validate",
    "report",
    "export",
    "shuffle",
    "--model",
    "--data",
    "Scratch",
    "Table",
    "Concise",
    "--model.lr",
]
WORDS += [
    "--data.path",
    "--data.target",
    "y",
    "--trainer.max_epochs",
    "0.1",
    "-1",
    "[a, b]",
    "{a: 1}",
    "null",
    "nan",
    "..",
]
WORDS += [
    "--data.features",
    "--model.optimizer",
    "Adam",
    "--trainer.callbacks",
    "--trainer.logger",
    "false",
    "-c",
    "--seed",
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8).filter(lambda word: "\0" not in word), max_size=6))
def test_command_line(words):
    with tempfile.TemporaryDirectory() as folder:
        outcome = in_process(Path(folder), *words, *(["--print_config"] if words[:1] == ["fit"] else []))
        if outcome.status:
            assert outcome.stderr.startswith("error: "), shlex.join(words)
            assert outcome.stderr.count("\n") == 1
        assert list(Path(folder).iterdir()) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "coefficients", "name", "estimate", "train", "optimum", "missing"]), inner
            )
        ),
    )
)
def test_report(content):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "report.json").write_text(report.json.dumps(content))
        outcome = in_process(Path(folder), "report", ".")
        assert (outcome.status, outcome.stderr.count("\n")) in {(0, 0), (1, 1)}
        assert all(char.isprintable() or char == "\n" for char in outcome.stdout + outcome.stderr)
