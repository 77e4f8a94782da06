"""Linux, macOS and Windows: every command as on each, as far as that can be imitated here."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from pyarrow import csv, parquet

import linreg_pl
from linreg_pl import InputError, Scratch, Synthetic, system
from linreg_pl.files import atomic_write
from tests.lightning.own import NOISE, trainer
from tests.support.commands import REPOSITORY

pytestmark = NOISE

CONFIG = """\
model: {class_path: linreg_pl.models.Fused}
data:
  class_path: linreg_pl.data.table.Table
  init_args: {path: houses.csv, target: σ, features: [größe, 房价], memory: 1, batch_size: 240, val_fraction: 0.1}
trainer: {max_epochs: 2}
"""
NO_PICTURES = ("--figures", "false")
LONG = ("fit", "--config", "scratch", "--trainer.max_epochs", "30", "--checkpoint.every_n_train_steps", "50")
LONG += NO_PICTURES
RESERVED = set('<>:"|?*\\')  # in names of files on Windows


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with a table of three columns, which takes more than 1 MiB, and its config."""
    folder = tmp_path_factory.mktemp("elsewhere")
    random = np.random.default_rng(0)
    X = random.normal(size=(150_000, 2))
    table = pa.table({"größe": X[:, 0], "房价": X[:, 1], "σ": X @ [1, 2] + 3 + 0.1 * random.normal(size=len(X))})
    csv.write_csv(table, folder / "houses.csv")
    parquet.write_table(table, folder / "houses.parquet", row_group_size=7_000)
    (folder / "houses.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def start(system, cwd, *commands):
    """Start commands as on Windows or macOS; on Windows with a console that has 256 characters."""
    words = [word for command in commands for word in ("then", *command)][1:]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(cwd), "OMP_NUM_THREADS": "1"}
    encoding = "cp1252" if system == "windows" else "utf-8"
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.support.{system}", *words],
        cwd=cwd,
        env=environment | {"FLUSHED": str(cwd / "flushed")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=encoding,
        start_new_session=True,  # whose processes are asked what they have open
    )


@pytest.mark.parametrize("system", ["windows", "macos"])
def test_every_command(system, tables, tmp_path, linreg, scratch_fit):
    """One test, so that pytest-xdist does not run all commands for each worker."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(tables, folder)
    said = run_commands(system, folder)
    check_results(folder)
    assert "größe" in said  # which cp1252 has, unlike 房价
    assert ("房价" if system == "macos" else "??") in said

    whole = linreg(*LONG).succeeded()
    resumed = torch.load(folder / "runs/scratch/version_2/checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(resumed["state_dict"]["w"], whole.last["state_dict"]["w"])

    two = json.loads((folder / "two/runs/scratch/version_0/report.json").read_bytes())
    assert two["world_size"] == 2
    assert {row["name"]: row["estimate"] for row in two["coefficients"]} == pytest.approx(scratch_fit.coefficients)

    flushed = folder / "flushed"  # from the drive's memory
    assert (flushed.stat().st_size > 100) if system == "macos" else not flushed.exists()
    names = {path.name for path in folder.rglob("*")}
    assert not {name for name in names if set(name) & RESERVED}
    assert not {name for name in names if name.startswith("linreg_pl-") or name.endswith((".tmp", ".rows"))}


def run_commands(system, folder):
    """Run all commands, stop two of them halfway, and return what was said."""
    for version, stop in enumerate((signal.SIGINT, signal.SIGKILL)):
        stopped = start(system, folder, (*LONG, "--resume") if version else LONG)
        last = folder / f"runs/scratch/version_{version}/checkpoints/last.ckpt"
        while not last.exists():
            assert stopped.poll() is None, stopped.stderr.read()
            time.sleep(0.02)
        stopped.send_signal(stop)
        said, _ = stopped.communicate(timeout=120)
        assert stopped.returncode in (130, -signal.SIGKILL), said
    run = "runs/houses/version_0"
    process = start(
        system,
        folder,
        (*LONG, "--resume"),
        ("fit", "--config", "houses.yaml"),
        ("report", run),
        ("predict", run),
        ("export", run),
        ("shuffle", "houses.parquet", "shuffled.parquet", "--memory", "1"),
        ("sweep", "--config", "scratch", "--model.lr", "0.01,5", "--trainer.max_epochs", "1"),
        *(("fit", "--config", name, *NO_PICTURES) for name in ("concise", "fused", "exact", "elastic_net", "table")),
        ("wald", "runs/table/version_0", "x = 1"),
        ("refit", "runs/elastic_net/version_0", "--model.penalty", "0.1", *NO_PICTURES),
        (*LONG[:3], *NO_PICTURES, "--config", "trainer/ddp_cpu", "--trainer.default_root_dir", "two"),
    )
    said, errors = process.communicate(timeout=400)
    assert (process.returncode, errors) == (0, ""), said
    return said


def check_results(folder):
    """Look at what the commands left."""
    runs = {path.parent.relative_to(folder).as_posix() for path in folder.glob("**/report.json")}
    names = ("concise", "fused", "exact", "elastic_net", "table", "houses")
    expected = {f"runs/{name}/version_0" for name in names}
    assert expected | {"runs/elastic_net/version_1", "two/runs/scratch/version_0"} <= runs
    assert json.loads((folder / "runs/scratch/sweep_0/sweep.json").read_bytes())["finished"]
    assert parquet.read_metadata(folder / "shuffled.parquet").num_rows == 150_000
    houses = folder / "runs/houses/version_0"
    assert parquet.read_metadata(houses / "predictions.parquet").num_rows == 150_000
    assert (houses / "figures/fit.png").is_file()
    assert str(json.loads((houses / "model.json").read_bytes())).count("房价")
    coefficients = json.loads((houses / "report.json").read_bytes())["coefficients"]
    assert [row["estimate"] for row in coefficients] == pytest.approx([1, 2, 3], abs=0.02)


def test_linreg_exe_is_started_again_as_a_module(tmp_path, monkeypatch):
    (tmp_path / "linreg.exe").touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "linreg"), "fit"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    system.prepare_process()
    assert sys.modules["__main__"].__spec__.name == "linreg_pl.__main__"


def test_replacing_waits_for_a_scanner(tmp_path, monkeypatch):
    attempts, rename = [], os.replace

    def held(source, path):
        attempts.append(path)
        if len(attempts) < 3:
            error = PermissionError(13, "in use")
            error.winerror = 32
            raise error
        rename(source, path)

    monkeypatch.setattr(os, "replace", held)
    atomic_write(tmp_path / "file", b"content")
    assert (len(attempts), (tmp_path / "file").read_bytes()) == (3, b"content")


def test_a_folder_is_locked_by_one(tmp_path):
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        assert system.lock(tmp_path, first)
        assert not system.lock(tmp_path, second)
        first.close()
        assert system.lock(tmp_path, second)


def test_macos_fits_without_its_gpu(monkeypatch):
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    data = Synthetic()
    trainer(linreg_pl.Trainer, accelerator="auto").fit(Scratch(num_features=2), datamodule=data)
    plain = trainer(linreg_pl.Trainer, accelerator="auto")
    monkeypatch.setattr(type(plain.strategy), "root_device", torch.device("mps"))
    with pytest.raises(InputError, match="Apple's GPUs have no float64"):
        plain.fit(Scratch(num_features=2), datamodule=data)
