"""A catalogue of bad input: the exact sentence that each gets, a status that is not 0, and nothing left behind.

All cases run in one folder, where names are short, so that a sentence is compared as a whole.
"""

import contextlib
import ctypes
import datetime
import gzip
import json
import os
import pickle
import re
import resource
import shlex
import shutil
import subprocess
import sys
import zipfile
from csv import reader

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv as arrow_csv
from pyarrow import feather, parquet

from linreg_pl import __main__
from linreg_pl.errors import InputError
from tests.support.commands import CONFIGS, DDP, REPOSITORY, SCRATCH, in_process, meeting

GOOD = pa.table({"x": np.arange(30.0), "z": np.arange(30) ** 2 % 7.0, "y": 2 * np.arange(30.0) + 1})
CONFIG, CONCISE = ((CONFIGS / f"{name}.yaml").read_text() for name in ("scratch", "concise"))
SIX = [1.0, 2.0, 3.0, 5.0, 7.0, 11.0]
MISSING = "the value is missing; fill it in, or set --data.missing drop or mean"
HELP = "see python train.py fit --help"
NONE = "x.parquet: has no numeric column besides the target 'y' (--data.features, --data.categorical); it has"
RESCALE = "to be squared in float64; rescale the column"
FOLDER = "holds no report.json; give the folder of a finished run, runs/NAME/version_N"
NO_MODEL = "there is no such LinearModel; choose one of Fused, Scratch, Concise, ElasticNet, Exact"
SECTION = "must hold flags, as in 'trainer: {max_epochs: 3}'"
ROOM = "too large for float32; choose smaller ones"


def paths(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scratch_fit):
    """Good and bad files, and two finished runs."""
    folder = tmp_path_factory.mktemp("catalogue")
    for name in ("scratch", "concise", "exact", "table"):
        shutil.copy(CONFIGS / f"{name}.yaml", folder)
    (folder / "good.csv").write_text("secret\n")
    shutil.copytree(scratch_fit.run, folder / "run")
    parquet.write_table(GOOD, folder / "good.parquet")
    flags = ("--data", "Table", "--data.path", "good.parquet", "--data.target", "y", "--data.features", "[x, z]")
    shutil.move(in_process(folder, "fit", "-c", "exact.yaml", *flags).succeeded().run, folder / "table")
    shutil.rmtree(folder / "runs")
    return folder


def assert_refused(folder, line, sentence):
    """Compare all that is said, and all that lies there; of a sentence that ends in … the start, as others end it."""
    before = paths(folder)
    outcome = in_process(folder, *shlex.split(line))
    if sentence.endswith("…"):
        assert outcome.stderr.startswith(f"error: {sentence[:-1]}")
        assert outcome.stderr.count("\n") == 1
    else:
        assert outcome.stderr == f"error: {sentence}\n"
    assert outcome.status == 1
    assert outcome.stdout == ""
    assert paths(folder) == before


# What is typed, after `fit -c scratch.yaml` unless it begins with a command.

FLAGS = {
    "--foo 1": f"--foo 1: there is no such flag; {HELP}",
    "extra": f"extra: flags begin with --; {HELP}",
    "''": f"'': flags begin with --; {HELP}",
    "--modle.lr 0.1": "--modle.lr 0.1: there is no such flag; did you mean --model.lr?",
    "--optimun false": "--optimun false: there is no such flag; did you mean --optimum?",
    "--trainer.max_epocs 3": "--trainer.max_epocs 3: there is no such flag; did you mean --trainer.max_epochs?",
    "--model.lrr 0.1": "--model.lrr: there is no such argument; did you mean --model.lr?",
    "--data.batchsize 9": "--data.batchsize: there is no such argument; did you mean --data.batch_size?",
    "--model.quux 9": f"--model.quux: there is no such argument; {HELP}",
    "--model.loss huber": "--model.loss: only Concise can take it",
    "--data.standardize true": "--data.standardize: only Table can take it",
    "--model.num_features 3": "--model.num_features 3: is taken from the data; leave it out",
    "--model.lr abc": "--model.lr abc: must be a finite number or auto",
    "--model.lr nan": "--model.lr nan: must be a finite number or auto",
    "--model.lr inf": "--model.lr inf: must be a finite number or auto",
    "--model.lr -inf": "--model.lr: needs a value; write a negative one as --model.lr=-1",
    "--model.lr": "--model.lr: needs a value; write a negative one as --model.lr=-1",
    "--model.lr ''": "--model.lr : must be a finite number or auto",
    "--model.lr null": "--model.lr null: needs a value",
    "--model.lr 0": "--model.lr 0.0: must be a positive number",
    "--model.lr -1": "--model.lr -1.0: must be a positive number",
    "--model.lr 1e308": "--model.lr 1e+308: diverges on these data with --data.batch_size 10, where 1.33 is the largest"
    " stable one; set --model.lr 1.33 or less (--guard false tries it all the same)",
    "--model.bias maybe": "--model.bias maybe: must be true or false",
    "--model.init_std -1": "--model.init_std -1.0: must be zero or a positive number",
    "--model.init_std 1e308": "--model.init_std 1e+308: makes weights that are too large for float32",
    "--model.weight_decay -1": "--model.weight_decay -1.0: must be zero or a positive number",
    "--model Scrach": "--model Scrach: there is no such LinearModel; did you mean Scratch?",
    "--model Forest": f"--model Forest: {NO_MODEL}",
    "--model torch.nn.Linear": f"--model torch.nn.Linear: {NO_MODEL}",
    "--model os.system": f"--model os.system: {NO_MODEL}",
    "--model nope.Nope": f"--model nope.Nope: {NO_MODEL}",
    "--data Tabel": "--data Tabel: there is no such DataModule; did you mean Table?",
    "--data linreg_pl.models.Scratch": "--data linreg_pl.models.Scratch: there is no such DataModule; choose one of"
    " Synthetic, Perturbed, Table",
    "--data Table --data.target y": "--data.path: must be given",
    "--data.num_train 0": "there are no train rows: set --data.num_train",
    "--data.num_train -1": "--data.num_train -1: must be zero or a positive number",
    "--data.num_train 1.5": "--data.num_train 1.5: must be a whole number",
    "--data.num_train 1000000000000000": "there is not enough memory: …",
    "--data.batch_size 0": "--data.batch_size 0: must be a positive number",
    "--data.batch_size -5": "--data.batch_size -5: must be a positive number",
    "--data.batch_size 2.5": "--data.batch_size 2.5: must be a whole number",
    "--data.noise_std -1": "--data.noise_std -1.0: must be zero or a positive number",
    "--data.noise_std 1e308": f"--data.true_weight, --data.true_bias, --data.noise_std: make targets that are {ROOM}",
    "--data.true_weight 3": "--data.true_weight 3: must be a list, as in '[a, b]'",
    "--data.true_weight [a]": "--data.true_weight a: must be a finite number",
    "--data.true_weight []": "--data.true_weight []: needs at least one weight, e.g. [2, -3.4]",
    "--data.seed -1": "--data.seed -1: must be zero or a positive number",
    "--data.seed x": "--data.seed x: must be a whole number",
    "--seed_everything -1": "--seed_everything -1: must be a whole number from 0 to 2^32 - 1",
    "--seed_everything 4294967296": "--seed_everything 4294967296: must be a whole number from 0 to 2^32 - 1",
    "--confidence_level 1.5": "--confidence_level 1.5: must lie between 0 and 1, e.g. 0.95",
    "--confidence_level 0": "--confidence_level 0.0: must lie between 0 and 1, e.g. 0.95",
    "--guard 3": "--guard 3: must be true or false",
    "--trainer.max_epochs many": "--trainer.max_epochs many: must be a whole number",
    "--trainer.max_epochs -5": "`max_epochs` must be a non-negative integer or -1. You passed in -5.",
    "--trainer.max_steps -3": "`max_steps` must be a non-negative integer or -1 (infinite steps). You passed in -3.",
    "--trainer.max_time 5": "`Timer(duration='5')` is not a valid duration. Expected a string in the format"
    " DD:HH:MM:SS.",
    "--trainer.precision 7-true": "--trainer.precision 7-true: must be a whole number or one of transformer-engine,"
    " transformer-engine-float16, 16-true, 16-mixed, bf16-true, bf16-mixed, 32-true, 64-true, 64, 32, 16, bf16",
    "--trainer.accelerator gpuu": "You selected an invalid accelerator name: `accelerator='gpuu'`. Available names…",
    "--trainer.accelerator tpu": "Requirement 'torch_xla>=1.13' not met.…",
    "--trainer.devices 0": "`Trainer(devices='0')` value is not a valid input using cpu accelerator.",
    "--trainer.devices x": "`devices` selected with `CPUAccelerator` should be an int > 0.",
    "--trainer.val_check_interval 1000": "`val_check_interval` (1000) must be less than or equal to the number of the"
    " training batches (100).…",
    "--trainer.val_check_interval 0": "--trainer.val_check_interval 0: must be a positive number",
    "--trainer.check_val_every_n_epoch 0": "--trainer.check_val_every_n_epoch 0: must be a positive number",
    "--trainer.log_every_n_steps -1": "--trainer.log_every_n_steps -1: must be zero or a positive number",
    "--trainer.overfit_batches 0.1": "--trainer.overfit_batches 0.1: validation rows come as one batch, which cannot be"
    " divided; give a number of mini-batches",
    "--trainer.limit_train_batches 1.5": "You have passed invalid value 1.5 for limit_train_batches, it has to be in"
    " [0.0, 1.0] or an int.",
    "--trainer.gradient_clip_val 1": "--trainer.gradient_clip_val 1: this model takes its steps by hand; use --model"
    " Concise, which clips",
    "--trainer.strategy fsdp": "--trainer.strategy fsdp: a linear model is too small to be split over devices; use ddp,"
    " which splits the rows",
    "--trainer.callbacks EarlyStoping": (
        "--trainer.callbacks EarlyStoping: there is no such Callback; did you mean EarlyStopping?"
    ),
    "--trainer.callbacks EarlyStopping": "monitor: must be given",
    "--trainer.logger Tensorbord": (
        "--trainer.logger Tensorbord: there is no such Logger; did you mean TensorBoardLogger?"
    ),
    "--trainer.logger WandbLogger": "lightning.pytorch.loggers.WandbLogger cannot be used: ModuleNotFoundError:…",
    "--trainer.num_nodes 2": "--trainer.num_nodes 2: nothing starts the processes of the other machines; run the"
    " command on each by torchrun --nnodes 2, or leave the flag out",
    "--trainer.default_root_dir /proc/no": "/proc/no: No such file or directory",
    "--trainer.default_root_dir scratch.yaml": "scratch.yaml/runs/scratch/version_0: Not a directory",
    "--model Concise --model.optimizer SGD": "--model.optimizer SGD: several classes have this name; give one in full:"
    " torch.optim.SGD or linreg_pl.models.optim.SGD",
    "--checkpoint.dirpath /proc/no": "/proc/no: No such file or directory",
    "--checkpoint.save_top_k -7": "Invalid value for save_top_k=-7. Must be >= -1",
    "--checkpoint.mode up": "`mode` can be min, max but got up",
    "fti -c scratch.yaml": "fti: there is no such command; did you mean fit?",
    "Validate": "Validate: there is no such command; did you mean validate?",
    "train": "train: there is no such command; choose one of fit, validate, test, predict, report, sweep, compare,"
    " wald, refit, export, shuffle, completion",
    "-c scratch.yaml": "name a command first, as in python train.py fit --config configs/scratch.yaml",
    "fit": "--data and --model: must be given, or a --config such as configs/scratch.yaml",
    "fit --model Scratch": "--data: must be given, or a --config such as configs/scratch.yaml",
    "fit --model.lr 0.1 --model Scratch --data Synthetic": "--model.lr 0.1: give --model NAME first",
    "fit -c": "--config: needs a value; write a negative one as --config=-1",
    "validate -c scratch.yaml": "validate needs a fitted model: python train.py validate RUN",
    "report": "report needs the folder of one run: python train.py report runs/NAME/version_N",
    "report nope": f"nope: {FOLDER}",
    "report scratch.yaml": f"scratch.yaml: {FOLDER}",
    "report run/checkpoints": f"run/checkpoints: {FOLDER}",
    "export nope": "nope: holds no checkpoints/last.ckpt; give the folder of a run, runs/NAME/version_N",
    "export run --format pickle": "--format pickle: choose one of json, onnx, pt2, sklearn",
    "export run --output nope/x.json": "nope/x.json: cannot be written (No such file or directory)…",
    "shuffle nope.csv x.parquet": "nope.csv: no such file (IN)",
    "shuffle good.parquet nope/x.parquet": "nope/x.parquet: there is no folder nope: create it first",
}
TYPED_FIRST = ("fti", "Validate", "train", "-c", "fit", "validate", "report", "export", "shuffle")


@pytest.mark.parametrize("line", FLAGS)
def test_flag(folder, line):
    first = line.split()[0]
    assert_refused(folder, line if first in TYPED_FIRST else f"fit -c scratch.yaml {line}", FLAGS[line])


CONFIGS_REFUSED = {
    "no closing bracket": ("model: [", "x.yaml: line 1: expected the node content, but found '<stream end>'"),
    "tabs": (
        "model:\n\tclass_path: Scratch\n",
        "x.yaml: line 2: found character '\\t' that cannot start any token; indent with spaces, not tabs",
    ),
    "empty": ("", f"x.yaml: {SECTION} (--config)"),
    "comment": ("# nothing\n", f"x.yaml: {SECTION} (--config)"),
    "list": ("- 1\n", f"x.yaml: {SECTION} (--config)"),
    "text": ("hello\n", f"x.yaml: {SECTION} (--config)"),
    "section of another kind": (CONFIG.replace("\n  max_epochs: 3", " [1]"), f"x.yaml: trainer: {SECTION}"),
    "said twice": (f"{CONFIG}trainer:\n  max_epochs: 1\n", "x.yaml: line 18: 'trainer' is given twice"),
    "unknown key": (f"{CONFIG}foo: 1\n", f"x.yaml: foo: there is no such argument; {HELP}"),
    "unknown flag": (
        CONFIG.replace("max_epochs", "max_epoch"),
        "x.yaml: trainer.max_epoch: there is no such argument; did you mean trainer.max_epochs?",
    ),
    "unknown argument": (
        CONFIG.replace("lr:", "lrr:"),
        "x.yaml: model.lrr: there is no such argument; did you mean model.lr?",
    ),
    "wrong kind": (CONFIG.replace("0.03", "fast"), "x.yaml: model.lr fast: must be a finite number or auto"),
    "null": (CONFIG.replace("0.03", "null"), "--model.lr null: needs a value"),
    "class that is not there": (
        CONFIG.replace("models.Scratch", "models.Scrap"),
        f"x.yaml: model linreg_pl.models.Scrap: {NO_MODEL}",
    ),
    "module that is not there": (
        CONFIG.replace("linreg_pl.models.Scratch", "nope.Nope"),
        f"x.yaml: model nope.Nope: {NO_MODEL}",
    ),
    "data for a model": (
        CONFIG.replace("linreg_pl.models.Scratch", "linreg_pl.data.table.Table"),
        f"x.yaml: model linreg_pl.data.table.Table: {NO_MODEL}",
    ),
    "class of others": (
        CONFIG.replace("linreg_pl.models.Scratch", "lightning.pytorch.demos.boring_classes.BoringModel"),
        f"x.yaml: model lightning.pytorch.demos.boring_classes.BoringModel: {NO_MODEL}",
    ),
    "function": (CONFIG.replace("linreg_pl.models.Scratch", "os.system"), f"x.yaml: model os.system: {NO_MODEL}"),
    "command for an optimizer": (
        CONCISE.replace("0.03", "0.03\n    optimizer: {class_path: subprocess.Popen, init_args: {args: [touch, ran]}}"),
        "x.yaml: model.optimizer subprocess.Popen: there is no such Optimizer; give its name, or its full import path",
    ),
    "command for a callback": (
        f"{CONFIG}  callbacks: [{{class_path: subprocess.Popen, init_args: {{args: [touch, ran]}}}}]\n",
        "x.yaml: trainer.callbacks subprocess.Popen: there is no such Callback; give its name, or its full import path",
    ),
    "YAML that would run a command": (
        "model: !!python/object/apply:os.system ['touch ran']\n",
        "x.yaml: line 1: could not determine a constructor for the tag"
        " 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    "YAML that names a function": (
        CONFIG.replace("0.03", "!!python/name:os.system"),
        "x.yaml: line 7: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
    ),
    "zero byte": (
        f'{CONFIG}  default_root_dir: "a\\0b"\n',
        "x.yaml: line 18: a text with a zero byte, which nothing can be named by",
    ),
    "config within a config": (
        f"{CONFIG}config: scratch.yaml\n",
        "x.yaml: config: a config cannot name another; give --config several times",
    ),
    "file of another kind, whose content is not shown": (
        "data: good.csv\nmodel: Scratch\n",
        "x.yaml: data good.csv: there is no such DataModule; choose one of Synthetic, Perturbed, Table",
    ),
    "binary": (bytes(range(256)), "x.yaml: is not YAML in UTF-8 (--config)"),
    "UTF-16": (CONFIG.encode("utf-16"), "x.yaml: is not YAML in UTF-8 (--config)"),
    "folder": (None, "x.yaml: is a folder (--config)"),
}


def put(folder, name, content):
    """Write a file for one test."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.mkdir()
    elif isinstance(content, pa.Table):
        parquet.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextlib.contextmanager
def lying(folder, files):
    """Put files there, and take them away in the end."""
    before = paths(folder)
    try:
        for name, content in files.items():
            put(folder, name, content)
        yield
    finally:
        for path in reversed([path for path in paths(folder) if path not in before]):
            (folder / path).rmdir() if (folder / path).is_dir() else (folder / path).unlink()


@pytest.mark.parametrize("name", CONFIGS_REFUSED)
def test_config(folder, name):
    content, sentence = CONFIGS_REFUSED[name]
    with lying(folder, {"x.yaml": content}):
        assert_refused(folder, "fit -c x.yaml", sentence)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import nowhere", "--model own.A: own cannot be imported: No module named 'nowhere'"),
        ("class A:\n1", "--model own.A: own cannot be imported: IndentationError: expected an indented block after…"),
        ("1 / 0", "--model own.A: own cannot be imported: ZeroDivisionError: division by zero"),
        ("B = 1", f"--model own.A: {NO_MODEL}"),
        (
            "from linreg_pl import Scratch\nclass A(Scratch):\n"
            "    def __init__(self, num_features: int, lr: float, bias: bool = True): raise KeyError('it')",
            "own.A cannot be used: KeyError: 'it' (LINREG_DEBUG=1 shows where)",
        ),
    ],
)
def test_model_of_ones_own(folder, monkeypatch, tmp_path, code, sentence):
    (tmp_path / "own.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    assert_refused(folder, "fit -c scratch.yaml --model own.A", sentence)


def test_value_that_fills_pages(folder):
    with lying(folder, {"x.yaml": f"trainer: {{accelerator: '{'x' * 10**6}'}}\n"}):
        outcome = in_process(folder, "fit", "-c", "scratch.yaml", "-c", "x.yaml")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert len(outcome.stderr) < 1000
    assert re.search(r"xxx`?'?`?\. Available names are: [a-z, ]+\.\n$", outcome.stderr)


def test_help_lists_the_flags_of_models_and_data(linreg):
    said = linreg("fit", "--help").succeeded().stdout
    said = " ".join(said.split())
    for flag in (
        "; their flags",
        '--model.lr step size; "auto" for a quarter of the largest stable one on the training rows. (default 0.03',
        "--model.optimizer any torch optimizer, e.g. ``--model.optimizer Adam``; its ``lr`` is ``lr`` above. (default"
        " None; Concise)",
        "--data.batch_size rows in one SGD mini-batch, over all processes. (default 10 or 32)",
        "--data.path a file, a folder, a pattern such as ``houses/*.parquet``, or a database; see `open_table`. (",
        "--data.delimiter what separates the values in a line of a CSV file; by default a tab in .tsv, else a comma.",
    ):
        assert flag in said


def test_config_that_is_not_there(folder):
    assert_refused(folder, "fit -c scratch.yaml -c nope.yaml", "nope.yaml: no such file (--config)")
    assert_refused(folder, "fit -c http://localhost:1/x.yaml", "http://localhost:1/x.yaml: no such file (--config)")


def csv(x, y="123456"):
    return "x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x, y, strict=False))


def whole(suffix):
    """The good table as bytes."""
    sink = pa.BufferOutputStream()
    if suffix == "parquet":
        parquet.write_table(GOOD, sink)
    else:
        feather.write_feather(GOOD, sink)
    return sink.getvalue().to_pybytes()


DAMAGED = "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."
ZEROS = "is not UTF-8 text: it contains zero bytes: save the file as UTF-8, or set --data.encoding utf-16"
SUFFIXES = (
    "--data.path must end in .csv, .tsv or .jsonl, perhaps followed by .gz, .bz2 or .zst, or in .parquet or .feather"
)
TABLES = {
    "nope.csv": (..., "", "nope.csv: no such file (--data.path)"),
    "*.nope": (..., "", "*.nope: no file matches this pattern (--data.path)"),
    "empty folder": (None, "", "empty folder: is a folder without CSV, Parquet or Feather files (--data.path)"),
    "x.txt": (csv("123"), "", f"x.txt: {SUFFIXES}"),
    "x.parquet.gz": (gzip.compress(whole("parquet")), "", f"x.parquet.gz: {SUFFIXES}"),
    "x.csv.gz": (gzip.compress(csv("123").encode())[:-9], "", "x.csv.gz: Truncated compressed stream"),
    "plain.csv.gz": (csv("123"), "", "plain.csv.gz: zlib inflate failed: incorrect header check"),
    "empty.csv": ("", "", "empty.csv: is empty"),
    "empty.parquet": ("", "", "empty.parquet: is empty"),
    "empty.feather": ("", "", "empty.feather: is empty"),
    "nonsense.csv": (bytes(range(256)) * 20, "", f"nonsense.csv: {ZEROS}"),
    "nonsense.parquet": (bytes(range(256)) * 20, "", f"nonsense.parquet: {DAMAGED}"),
    "nonsense.feather": (bytes(range(256)) * 20, "", "nonsense.feather: Not an Arrow file"),
    "half.parquet": (whole("parquet")[:999], "", f"half.parquet: {DAMAGED}"),
    "half.feather": (whole("feather")[:500], "", "half.feather: Not an Arrow file"),
    "hole.parquet": (
        whole("parquet")[:8] + bytes(200) + whole("parquet")[208:],
        "",
        "hole.parquet: Couldn't deserialize thrift: TProtocolException: Invalid data Deserializing page header failed.",
    ),
    "no footer.parquet": (b"PAR1" + bytes(8) + b"PAR1", "", "no footer.parquet: Couldn't deserialize thrift…"),
    "csv.parquet": (csv("123"), "", f"csv.parquet: {DAMAGED}"),
    "parquet.csv": (whole("parquet"), "", f"parquet.csv: {ZEROS}"),
    "parquet.feather": (whole("parquet"), "", "parquet.feather: Not an Arrow file"),
    "packed.csv": (gzip.compress(b"x,y\n1,2\n" * 9, mtime=1), "", "packed.csv: is not UTF-8 text…"),
    "utf16.csv": (csv("123").encode("utf-16"), "", f"utf16.csv: {ZEROS}"),
    "latin1.csv": (
        "größe,y\n1,2\n".encode("latin-1"),
        "",
        "latin1.csv: is not UTF-8 text: save the file as UTF-8…",
    ),
    "zero.csv": (csv(["1", "2\0", "3"]), "", f"zero.csv: {ZEROS}"),
    "short.csv": ("x,y\n1,2\n3\n", "", "short.csv: row 2: has 1 values for 2 columns"),
    "long.csv": ("x,y\n1,2\n3,4,5\n", "", "long.csv: row 2: has 3 values for 2 columns"),
    "twice.csv": ("x,x,y\n1,2,3\n", "", "twice.csv: 2 columns are named 'x': rename all but one"),
    "index.csv": (
        ",x,y\n0,1,2\n1,2,3\n",
        "",
        "index.csv: a column has no name, as an index that was saved along: name it, or leave it out of"
        " --data.features",
    ),
    "no header.csv": ("1,2\n3,4\n", "", "no header.csv: has no column 'y' (--data.target); it has '1', '2'"),
    "header.csv": ("x,y\n", "", "header.csv: has no rows"),
    "lines.csv": ("\n\n\n", "", "lines.csv: has no rows"),
    "semicolon.csv": ("x;y\n1;2\n", "", "semicolon.csv: one column named 'x;y': set --data.delimiter ';'"),
    "semicolon and comma.csv": (
        "x;y\n1,5;2,5\n",
        "",
        "semicolon and comma.csv: one column named 'x;y': set --data.delimiter ';'",
    ),
    "huge line.csv": (
        "x,y\n1,2\n" + "a" * 3_000_000 + ",3\n2,3\n",
        "",
        "huge line.csv: a row is longer than 1 MiB: is a quotation mark left open?",
    ),
    "comma.csv": (
        'x,y\n"1,5",2\n',
        "",
        "comma.csv: column 'x' has numbers such as '1,5': set --data.decimal ','; or set --data.decimal . to keep"
        " them as text",
    ),
    "target alone.csv": (
        "y\n1\n2\n",
        "",
        "target alone.csv: has no numeric column besides the target 'y' (--data.features, --data.categorical); it has"
        " 'y' (int64)",
    ),
    "a.csv": ({"a.csv/1.csv": csv("123"), "a.csv/2.csv": "x\n1\n"}, "", "a.csv/2.csv: has no column 'y', which…"),
    "text.csv": (csv(["1", "two", "3"]), "", "text.csv: column 'x', row 2: 'two' is not a number"),
    "nan.csv": (csv(["1", "2", "nan"]), "", f"nan.csv: column 'x', row 3: {MISSING}"),
    "inf.csv": (csv(["1", "-inf", "3"]), "", "inf.csv: column 'x', row 2: -inf is not a finite number"),
    "1e309.csv": (csv(["1e309", "2", "3"]), "", "1e309.csv: column 'x', row 1: inf is not a finite number"),
    "1e308.csv": (csv(["1e308", "-1e308", "3"]), "", f"column 'x': its values are too large {RESCALE}"),
    "1e-320.csv": (csv(["1e-320", "2e-320", "5e-320"]), "", f"column 'x': its values are too small {RESCALE}"),
    "1e-200.csv": (csv(["1e-200", "2e-200", "5e-200"]), "--model Scratch", "column 'x': its values are too small…"),
    "y.csv": (csv("123", ["1e308", "-1e308", "1"]), "", f"column 'y': its values are too large {RESCALE}"),
    "float32.csv": (
        csv("123", ["1e39", "2", "1"]),
        "--model Scratch",
        "column 'y': 1e+39 is too large for float32, which the steps are taken in; rescale the column",
    ),
    "2^53.csv": (
        csv(["1", "9007199254740993", "3"]),
        "",
        "2^53.csv: column 'x', row 2: 9007199254740993 is beyond 2^53, where float64 skips integers; rescale the"
        " column",
    ),
    "one row.csv": (
        csv("1"),
        "",
        "1 training rows cannot determine 2 coefficients: use more rows, fewer columns in --data.features, or"
        " --model.ridge above 0",
    ),
    "constant.csv": (
        csv("222"),
        "",
        "the coefficients are not unique: column 'x' has one value only. Leave 'x' out of --data.features, or set"
        " --model.ridge above 0",
    ),
    "constant for SGD.csv": (
        csv("222"),
        "--model Scratch",
        "column 'x' has one value only, so it cannot be standardised: leave it out of --data.features",
    ),
    "dependent.csv": (
        "x,z,y\n1,2,3\n2,4,3\n3,6,5\n5,10,1\n",
        "",
        "the coefficients are not unique: column 'z' follows linearly from 'x'. Leave 'z' out of --data.features, or"
        " set --model.ridge above 0",
    ),
    "bias.csv": (
        "bias,y\n1,2\n",
        "",
        "bias.csv: 'bias' is the name of the intercept in every report; rename the column",
    ),
    "level.csv": (
        "c,x,y\na,1,2\na,2,3\n",
        "--data.categorical [c]",
        "column 'c' has one value only: leave it out of --data.categorical",
    ),
    "levels.csv": (
        "c,y\n" + "".join(f"l{i},{i % 7}\n" for i in range(10_100)),
        "--data.categorical [c]",
        "column 'c' has 10100 levels, each a column of its own: that is too many; leave it out of --data.categorical",
    ),
    "weights.csv": (
        "x,w,y\n1,-1,2\n2,3,3\n",
        "--data.weights w",
        "weights.csv: column 'w' has a negative weight, -1: weights are zero or above",
    ),
    "no weights.csv": (
        "x,w,y\n1,0,2\n2,0,3\n",
        "--data.weights w",
        "column 'w': the weights of the training rows are all zero",
    ),
    "no rows.parquet": (GOOD.slice(0, 0), "", "no rows.parquet: has no rows"),
    "no values.parquet": (
        pa.table({"x": pa.nulls(6, pa.float64()), "y": SIX}),
        "--data.missing drop",
        "there are no train rows: column 'x' has no values at all",
    ),
    "no targets.parquet": (
        pa.table({"x": SIX, "y": [1.0, None, *SIX[2:]]}),
        "--data.missing mean",
        "no targets.parquet: column 'y', row 2: the value is missing; only numeric features are replaced by their mean;"
        " --data.missing drop leaves such rows out",
    ),
    "x.parquet": (pa.table({"x": [[1, 2]] * 6, "y": SIX}), "", f"{NONE} 'x' (list<element: int64>), 'y' (double)"),
    "list.parquet": (
        pa.table({"x": [[1, 2]] * 6, "y": SIX}),
        "--data.features [x]",
        "list.parquet: column 'x' is of type list<element: int64>, not numbers",
    ),
    "lists.parquet": (
        pa.table({"x": [[1, 2]] * 6, "y": SIX}),
        "--data.categorical [x]",
        "lists.parquet: column 'x' is of type list<element: int64>, whose values cannot be levels",
    ),
    "dictionary.parquet": (
        pa.table({"x": pa.array(["a", "b"] * 3).dictionary_encode(), "y": SIX}),
        "--data.features [x]",
        "dictionary.parquet: column 'x', row 1: 'a' is not a number; a feature that holds names can be"
        " --data.categorical",
    ),
    "bytes.parquet": (
        pa.table({"x": [b"\xff"] * 6, "y": SIX}),
        "--data.categorical [x]",
        "bytes.parquet: column 'x' is of type binary, whose values cannot be levels",
    ),
    "time.parquet": (
        pa.table({"x": [datetime.time(hour) for hour in range(6)], "y": SIX}),
        "--data.features [x]",
        "time.parquet: column 'x' is of type time64[us], not numbers",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_table(folder, name):
    content, flags, sentence = TABLES[name]
    files = {} if content is ... else content if isinstance(content, dict) else {name: content}
    line = f"fit -c exact.yaml --data Table --data.path '{name}' --data.target y {flags}"
    with lying(folder, files):
        assert_refused(folder, line, sentence)


COLUMNS = {
    "--data.path ''": "--data.path: is empty; name a file, a folder or a pattern",
    "--data.target Y": "good.parquet: has no column 'Y' (--data.target); did you mean 'y'?",
    "--data.target price": "good.parquet: has no column 'price' (--data.target); it has 'x', 'z', 'y'",
    "--data.features [xx]": "good.parquet: has no column 'xx' (--data.features); did you mean 'x'?",
    "--data.features '[x, y]'": "--data.features: contains the target 'y'",
    "--data.features '[x, x]'": "--data.features: names column 'x' twice",
    "--data.features x": "--data.features x: must be a list, as in '[a, b]'",
    "--data.features [1]": "--data.features [1]: must be text, in quotes where it looks like a number",
    "--data.categorical [town]": "good.parquet: has no column 'town' (--data.categorical); it has 'x', 'z', 'y'",
    "--data.categorical [x] --data.features [z]": "--data.categorical: 'x' is not among --data.features",
    "--data.weights w": "good.parquet: has no column 'w' (--data.weights); it has 'x', 'z', 'y'",
    "--data.weights y": "--data.weights y: is also the target or a feature",
    "--data.ids [name]": "good.parquet: has no column 'name' (--data.ids); it has 'x', 'z', 'y'",
    "--data.missing ignore": "--data.missing ignore: must be one of error, drop, mean",
    "--data.time_unit years": "--data.time_unit years: must be one of seconds, minutes, hours, days",
    "--data.val_fraction 1.5": "--data.val_fraction 1.5: must be at least 0 and less than 1",
    "--data.val_fraction nan": "--data.val_fraction nan: must be a finite number",
    "--data.val_fraction 0.6 --data.test_fraction 0.6": "--data.val_fraction and --data.test_fraction: leave no rows to"
    " train on",
    "--data.val_fraction 0.999": "there are no train rows: use fewer for validation and testing",
    "--data.memory 0": "--data.memory 0: must be a positive number",
    "--model.ridge -1": "--model.ridge -1.0: must be zero or a positive number",
    "--model.lr 0.1": "--model.lr: only Fused, Scratch, Concise can take it",
}


@pytest.mark.parametrize("flags", COLUMNS)
def test_columns(folder, flags):
    base = "fit -c exact.yaml --data Table --data.path good.parquet --data.target y"
    assert_refused(folder, f"{base} {flags}", COLUMNS[flags])


# Checkpoints, read by every command that takes one.


class Payload:
    """Code in a pickle."""

    def __reduce__(self):
        return (open, ("ran", "w"))


def changed(**values):
    """The good checkpoint with something changed."""

    def change(good):
        checkpoint = torch.load(good, weights_only=True)
        for name, value in values.items():
            checkpoint[name] = value(checkpoint[name]) if callable(value) else value
        return checkpoint

    return change


CANNOT = "is not a checkpoint that can be read"
OTHER = "is not a checkpoint of this program"
CHECKPOINTS = {
    "empty": (lambda good: b"", CANNOT),
    "text": (lambda good: b"hello", CANNOT),
    "half": (lambda good: good.read_bytes()[: good.stat().st_size // 2], CANNOT),
    "zeros": (lambda good: bytes(good.stat().st_size), CANNOT),
    "code in a pickle": (lambda good: pickle.dumps(Payload()), CANNOT),
    "code in a checkpoint": (changed(payload=Payload()), CANNOT),
    "list": (lambda good: [1, 2], OTHER),
    "tensor": (lambda good: torch.ones(2), OTHER),
    "other dictionary": (lambda good: {"weights": torch.ones(2)}, OTHER),
    "no weights": (changed(state_dict=[]), OTHER),
    "weights of another kind": (changed(state_dict={"w": "x"}), OTHER),
    "other weights": (changed(state_dict={"v": torch.ones(2)}), "was made by another --model than Scratch"),
    "other model": (changed(model="Exact"), "was made by --model Exact, not Scratch"),
    "other shape": (
        changed(state_dict=lambda held: {**held, "w": torch.ones(5, 1)}),
        "was made by another --model than Scratch",
    ),
    "nan": (
        changed(state_dict=lambda held: {**held, "b": torch.tensor([float("nan")])}),
        "holds weights that are not finite: the fit diverged",
    ),
    "other columns": (
        changed(Synthetic=lambda held: {**held, "feature_names": ["a", "b"]}),
        "was made for the features ['a', 'b'], not ['x0', 'x1']; set --data.features, or use its data",
    ),
    "no columns": (changed(Synthetic={}), "was made with other data than Synthetic"),
}


@pytest.fixture
def cwd(folder):
    """Some of the files, in a folder in which tests may write."""
    with lying(folder, {}):
        yield folder


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint(cwd, monkeypatch, name):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1" if "code" in name else "0")  # which is not listened to
    make, reason = CHECKPOINTS[name]
    content = make(cwd / "run/checkpoints/last.ckpt")
    if isinstance(content, bytes):
        (cwd / "x.ckpt").write_bytes(content)
    else:
        torch.save(content, cwd / "x.ckpt")
    commands = ("fit", "validate", "test", "predict") if "code" in name else ("fit", "validate")
    for command in commands:
        assert_refused(cwd, f"{command} -c scratch.yaml --ckpt_path x.ckpt", f"--ckpt_path x.ckpt: {reason}")
    if reason in (CANNOT, OTHER):
        (cwd / "x/checkpoints").mkdir(parents=True)
        shutil.copy(cwd / "x.ckpt", cwd / "x/checkpoints/last.ckpt")
        assert_refused(cwd, "export x", f"x/checkpoints/last.ckpt: {reason}")
    assert not (cwd / "ran").exists()


def test_zip_is_no_checkpoint(cwd):
    with zipfile.ZipFile(cwd / "x.ckpt", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert_refused(cwd, "fit -c scratch.yaml --ckpt_path x.ckpt", f"--ckpt_path x.ckpt: {CANNOT}")


S, T = "run/checkpoints/last.ckpt", "table/checkpoints/last.ckpt"
ANEW = "leave the flag out, or start a new fit without --ckpt_path"
RESUMED = {
    "-c scratch.yaml --ckpt_path nope.ckpt": "--ckpt_path nope.ckpt: no such file",
    "-c scratch.yaml --ckpt_path run": "--ckpt_path run: is a folder",
    f"-c concise.yaml --ckpt_path {S}": f"--ckpt_path {S}: was made by --model Scratch, not Concise",
    f"-c scratch.yaml --ckpt_path {T}": f"--ckpt_path {T}: was made by --model Exact, not Scratch",
    f"-c exact.yaml --ckpt_path {T}": f"--ckpt_path {T}: was made with other data than Synthetic",
    f"-c scratch.yaml --ckpt_path {S} --data.true_weight '[1, 2, 3]'": f"--ckpt_path {S}: was made for the features"
    " ['x0', 'x1'], not ['x0', 'x1', 'x2']; set --data.features, or use its data",
    f"-c table/config.yaml --ckpt_path {T} --data.features [x]": f"--ckpt_path {T}: was made for the features"
    " ['x', 'z'], not ['x']; set --data.features, or use its data",
    f"-c scratch.yaml --ckpt_path {S} --model.lr 0.5": f"--model.lr 0.5: {S} was made with 0.03; {ANEW}",
    f"-c scratch.yaml --ckpt_path {S} --model.bias false": f"--model.bias False: {S} was made with True; {ANEW}",
    f"-c scratch.yaml --ckpt_path {S} --model.init_std 1": f"--model.init_std 1.0: {S} was made with 0.01; {ANEW}",
    f"-c scratch.yaml --ckpt_path {S} --model.weight_decay 1": f"--model.weight_decay 1.0: {S} was made with 0.0;"
    f" {ANEW}",
}


@pytest.mark.parametrize("line", RESUMED)
def test_checkpoint_that_does_not_fit(folder, line):
    for command in ("fit", "predict"):
        assert_refused(folder, f"{command} {line}", RESUMED[line])


@pytest.mark.parametrize("command", ["validate", "test"])
def test_checkpoint_that_cannot_be_scored(folder, command):
    part = {"validate": "val", "test": "test"}[command]
    line = f"{command} -c table/config.yaml --ckpt_path {T}"
    assert_refused(folder, line, f"there are no {part} rows: set --data.{part}_fraction")
    assert_refused(
        folder, f"{command} -c concise.yaml --ckpt_path {S}", f"--ckpt_path {S}: was made by --model Scratch,…"
    )


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_last_checkpoint_where_there_is_none(folder, command):
    assert_refused(folder, f"{command} -c scratch.yaml --ckpt_path last", "--ckpt_path last: …")


PREDICTED = {
    "--predictions x.xlsx": "--predictions x.xlsx: must end in .parquet or .csv",
    "--predictions nope/x.csv": "--predictions nope/x.csv: there is no folder nope",
    "--data.path nope.parquet": "nope.parquet: no such file (--data.path)",
    "--data.missing mean": "--data.missing mean: the checkpoint holds no means, for the fit did not fill in missing"
    " values; use drop",
    "--data.time_unit hours": "--data.time_unit hours: the checkpoint was made with days; leave the flag out",
    "--data.path x.parquet --data.ids [l] --predictions p.csv": "--predictions p.csv: CSV cannot hold --data.ids"
    " (Unsupported Type:list<element: int64>); use .parquet",
}


@pytest.mark.parametrize("flags", PREDICTED)
def test_predict(folder, flags):
    with lying(folder, {"x.parquet": GOOD.append_column("l", [[[1]] * 30])}):
        assert_refused(folder, f"predict -c table/config.yaml --ckpt_path {T} {flags}", PREDICTED[flags])


REPORTS = {
    '{"model":': "x/report.json: is not valid JSON (Expecting value: line 1 column 10 (char 9))",
    "": "x/report.json: is not valid JSON (Expecting value: line 1 column 1 (char 0))",
    "[]": "x/report.json: is not a report of this program",
    "{}": "x/report.json: is not a report of this program",
    '{"model": "scratch", "coefficients": [3]}': "x/report.json: is not a report of this program",
    '{"model": "scratch", "coefficients": [{"name": "x", "estimate": "1"}]}': "x/report.json: is not a report of this"
    " program",
}


@pytest.mark.parametrize("text", REPORTS)
def test_report(folder, text):
    with lying(folder, {"x/report.json": text}):
        assert_refused(folder, "report x", REPORTS[text])


# The disk. Python's own limit on the size of a file stands for a full one: it fails in the same calls.


@contextlib.contextmanager
def files_up_to(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FULL = {
    "fit -c scratch.yaml": 100,  # of config.yaml
    "fit -c scratch.yaml --data.num_val 100": 3000,  # of TensorBoard's file
    f"predict -c table/config.yaml --ckpt_path {T} --predictions p.parquet": 100,
    f"predict -c table/config.yaml --ckpt_path {T} --predictions p.csv": 100,
    "export run --output m.json": 10,
    "shuffle good.parquet s.parquet": 100,
}


@pytest.mark.parametrize("line", FULL)
def test_full_disk(cwd, line):
    before = paths(cwd)
    with files_up_to(FULL[line]):
        outcome = in_process(cwd, *shlex.split(line))
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert "File too large" in outcome.stderr
    if FULL[line] < 3000:  # else it had begun, and what it had told is kept
        assert paths(cwd) == before


def unprivileged():
    """Take from root the right to read and write any file, as it has no other use in a test."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of linux/capability.h
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP of linux/prctl.h


@pytest.mark.parametrize(
    ("closed", "line", "sentence"),
    [
        ("x.csv", "fit --model Exact --data Table --data.path x.csv --data.target y", "x.csv: cannot be read (…"),
        ("x.csv", "shuffle x.csv x.parquet", "x.csv: cannot be read (…"),
        ("runs", "fit -c scratch.yaml", "runs/scratch: Permission denied"),
    ],
)
def test_permission_denied(tmp_path, closed, line, sentence):
    (tmp_path / "x.csv").write_text(csv("123"))
    (tmp_path / "scratch.yaml").write_text(CONFIG)
    (tmp_path / "runs").mkdir()
    (tmp_path / closed).chmod(0o500 if closed == "runs" else 0)
    before = [path.name for path in tmp_path.iterdir()]
    command = [sys.executable, str(REPOSITORY / "train.py"), *line.split()]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=unprivileged, check=False, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sentence.rstrip('…')}")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == before


# How it is said.


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_command_the_commands_are_listed(linreg, arguments):
    outcome = linreg(*arguments).succeeded()
    listed = set(re.findall(r"\n  (\w+)", outcome.stdout))
    assert listed | {"test"} == {*__main__.COMMANDS}  # test is told beside validate


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("LINREG_DEBUG", "1")
    monkeypatch.setattr("sys.argv", ["train.py", "report", "nope"])
    with pytest.raises(InputError, match=r"^nope: holds no report\.json"):
        __main__.main()


def test_of_several_processes_one_speaks(launch):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    outcome = launch("fit", "--config", SCRATCH, "--config", DDP, "--model.lr", -1, launcher=torchrun)
    assert outcome.status != 0
    assert outcome.stderr.count("error: --model.lr -1.0: must be a positive number") == 1


def test_of_processes_that_have_not_met_one_speaks(tmp_path):
    """As a cluster starts them; the flag is refused before they are connected."""
    words = ("fit", "--config", SCRATCH, "--config", DDP, "--model.lrr", 1)
    command = [sys.executable, REPOSITORY / "train.py", *map(str, words)]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stderr=subprocess.PIPE, text=True)
        for own in meeting(2)
    ]
    said = "".join(process.communicate()[1] for process in started)
    assert said == "error: --model.lrr: there is no such argument; did you mean --model.lr?\n"
    assert [process.returncode for process in started] == [1, 1]


def test_as_a_shell_sees_it(launch):
    outcome = launch("fit", "--config", CONFIGS / "table.yaml", "--data.path", "nope.csv")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == "error: nope.csv: no such file (--data.path)\n"


# What must work.


@pytest.mark.parametrize("name", ["two words", "größe 📏", "it's; $HOME"])
def test_odd_names_work_and_what_is_printed_can_be_typed(tmp_path, name):
    (tmp_path / name).mkdir()
    table = GOOD.rename_columns([f"{name} x", "zeile\n\t2", name])
    parquet.write_table(table, tmp_path / name / f"{name}.parquet")
    shutil.copy(CONFIGS / "exact.yaml", tmp_path / name / f"{name}.yaml")
    flags = ("--data", "Table", "--data.path", f"{name}/{name}.parquet", "--data.target", name)
    fit = in_process(tmp_path, "fit", "-c", f"{name}/{name}.yaml", *flags, pictures=True).succeeded()
    assert fit.run.parent.name == name.lower()
    assert list(fit.coefficients) == [f"{name} x", "zeile\n\t2", "bias"]
    typed = [line.split("train.py ")[1] for line in fit.stdout.splitlines() if "python train.py" in line]
    assert len(typed) == 2
    for line in typed:
        in_process(tmp_path, *shlex.split(line)).succeeded()
    assert parquet.read_table(fit.run / "predictions.parquet")["prediction"].to_pylist() == pytest.approx(
        GOOD["y"].to_pylist()
    )
    in_process(tmp_path, "export", fit.run.relative_to(tmp_path)).succeeded()


GOOD_TABLES = {
    "new\nline.csv": csv("124"),
    "-dash.csv": csv("124"),
    "*.csv": csv("124"),
    "bom.csv": b"\xef\xbb\xbf" + csv("124").encode(),
    "crlf.csv": csv("124").replace("\n", "\r\n"),
    "no end of line.csv": csv("124").rstrip("\n"),
    "quotes.csv": 'x,"y"\n"1",1\n"2",2\n"4",3\n',
    "two rows.csv": csv("13", "13"),
    "constant target.csv": csv("124", "777"),
    "large.csv": csv(["1e20", "2e20", "4e20"]),
    "small.csv": csv(["1e-20", "2e-20", "4e-20"]),
    "2^24.csv": csv([f"{2**24 + 1}", f"{2**24 + 3}", f"{2**24 + 6}"]),
    "zero.csv": csv("012", "000"),
}


@pytest.mark.parametrize("name", GOOD_TABLES)
def test_table_that_is_unusual_works(cwd, name):
    put(cwd, name, GOOD_TABLES[name])
    flags = ("--trainer.logger", "false", "--data", "Table", f"--data.path={name}", "--data.target", "y")
    outcome = in_process(cwd, "fit", "-c", "exact.yaml", *flags, pictures=True).succeeded()
    content = arrow_csv.read_csv(cwd / name)
    slope, bias = np.polyfit(content["x"].to_numpy() * 1.0, content["y"].to_numpy(), 1)
    found = [line.split()[1] for line in outcome.stdout.splitlines() if line.startswith(("x ", "bias "))]
    assert [float(value) for value in found] == pytest.approx([slope, bias], rel=1e-4, abs=1e-12)


# What comes from a table can neither command a terminal nor break a file.

COLUMNS_OF_EXACT = ("estimate", "standard_error", "ci_low", "ci_high", "t", "p", "vif")
EVIL = 'a\x1b[31m\n\tb\r\u202e,"=1+1'


def test_names_of_columns_are_only_shown(cwd):
    parquet.write_table(GOOD.rename_columns([EVIL, "=cmd|' /C calc'!A0", "y"]), cwd / "x.parquet")
    flags = ("--data", "Table", "--data.path", "x.parquet", "--data.target", "y")
    fit = in_process(cwd, "fit", "-c", "exact.yaml", *flags, pictures=True).succeeded()
    run = fit.run
    again = in_process(cwd, "report", run).succeeded().stdout
    exported = in_process(cwd, "export", run, "--format", "json").succeeded().stdout
    usage = in_process(cwd, "export", run, "--format", "pt2").succeeded().stdout
    for text in (fit.stdout, again, exported, usage):
        assert set(text) - {"\n"} == {char for char in text if char.isprintable()}
    rows = [line for line in again.splitlines() if "a\ufffd[31m" in line]
    assert len(rows) == 1
    assert len(rows[0].split()) == 1 + len(COLUMNS_OF_EXACT)
    with (run / "coefficients.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in reader(file)] == ["name", EVIL, "=cmd|' /C calc'!A0", "bias"]
    assert json.loads((run / "report.json").read_text())["coefficients"][0]["name"] == EVIL
    assert json.loads((run / "model.json").read_text())["features"][0]["name"] == EVIL
    in_process(cwd, "predict", "-c", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt").succeeded()
    outcome = in_process(cwd, "fit", "-c", "exact.yaml", *flags[:-1], f"{EVIL}!")
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.rstrip("\n").isprintable()


def test_a_message_cannot_command_the_terminal(folder):
    assert_refused(folder, "report 'a\x1b[31m\nb'", f"a\ufffd[31m\ufffdb: {FOLDER}")
    assert_refused(folder, "fit -c scratch.yaml --model '\x1b[2J'", f"--model \ufffd[2J: {NO_MODEL}")
