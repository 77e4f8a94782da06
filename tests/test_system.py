"""Linux, macOS and Windows: every command as on each, as far as that can be imitated here."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

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


class Elsewhere(NamedTuple):
    """What commands left behind on another system."""

    system: str
    folder: Path
    said: str

    def report(self, run):
        return json.loads((self.folder / run / "report.json").read_bytes())


@pytest.fixture(scope="module", params=["windows", "macos"])
def elsewhere(request, tables, tmp_path_factory):
    """A folder after all commands, two of which were stopped halfway, and what they said."""
    system, folder = request.param, tmp_path_factory.mktemp(request.param)
    shutil.copytree(tables, folder, dirs_exist_ok=True)
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
    return Elsewhere(system, folder, said)


def test_every_result(elsewhere):
    folder = elsewhere.folder
    runs = {path.parent.relative_to(folder).as_posix() for path in folder.glob("**/report.json")}
    names = ("concise", "fused", "exact", "elastic_net", "table", "houses")
    expected = {f"runs/{name}/version_0" for name in names}
    assert expected | {"runs/elastic_net/version_1", "two/runs/scratch/version_0"} <= runs
    assert json.loads((folder / "runs/scratch/sweep_0/sweep.json").read_bytes())["finished"]
    assert parquet.read_metadata(folder / "shuffled.parquet").num_rows == 150_000
    assert parquet.read_metadata(folder / "runs/houses/version_0/predictions.parquet").num_rows == 150_000
    assert (folder / "runs/houses/version_0/figures/fit.png").is_file()
    assert "größe" in elsewhere.said  # which cp1252 has, unlike 房价
    assert ("房价" if elsewhere.system == "macos" else "??") in elsewhere.said


def test_a_streamed_table(elsewhere):
    model = json.loads((elsewhere.folder / "runs/houses/version_0/model.json").read_bytes())
    assert str(model).count("房价")
    coefficients = elsewhere.report("runs/houses/version_0")["coefficients"]
    assert [row["estimate"] for row in coefficients] == pytest.approx([1, 2, 3], abs=0.02)


def test_a_fit_that_was_interrupted_and_then_killed(elsewhere, linreg):
    whole = linreg(*LONG).succeeded()
    resumed = torch.load(elsewhere.folder / "runs/scratch/version_2/checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(resumed["state_dict"]["w"], whole.last["state_dict"]["w"])


def test_two_processes(elsewhere, scratch_fit):
    report = elsewhere.report("two/runs/scratch/version_0")
    assert report["world_size"] == 2
    assert {row["name"]: row["estimate"] for row in report["coefficients"]} == pytest.approx(scratch_fit.coefficients)


def test_files_are_flushed_from_the_drives_memory_on_macos(elsewhere):
    flushed = elsewhere.folder / "flushed"
    assert (flushed.stat().st_size > 100) if elsewhere.system == "macos" else not flushed.exists()


def test_windows_has_names_for_all_files_and_no_temporary_one_is_left(elsewhere):
    names = {path.name for path in elsewhere.folder.rglob("*")}
    assert not {name for name in names if set(name) & RESERVED}
    assert not {name for name in names if name.startswith("linreg_pl-") or name.endswith((".tmp", ".rows"))}


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
