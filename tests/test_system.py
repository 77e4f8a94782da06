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
from linreg_pl.tables import csv_files
from tests.lightning.own import NOISE, trainer
from tests.support.commands import REPOSITORY, in_process

pytestmark = NOISE

CONFIG = """\
model: {class_path: linreg_pl.models.Fused}
data:
  class_path: linreg_pl.data.table.Table
  init_args: {path: houses.csv, target: σ, features: [größe, 房价], memory: 1, batch_size: 240, val_fraction: 0.1}
trainer: {max_epochs: 2}
"""
NO_PICTURES = ("--figures", "false")
LONG = (
    "fit",
    "--config",
    "scratch",
    "--trainer.max_epochs",
    "60",
    "--checkpoint.every_n_train_steps",
    "50",
    *NO_PICTURES,
)
RESERVED = set('<>:"|?*\\')  # in names of files on Windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table of three columns, which takes more than 1 MiB, and its config."""
    folder = tmp_path_factory.mktemp("elsewhere")
    random = np.random.default_rng(0)
    X = random.normal(size=(150_000, 2))
    table = pa.table({"größe": X[:, 0], "房价": X[:, 1], "σ": X @ [1, 2] + 3 + 0.1 * random.normal(size=len(X))})
    csv.write_csv(table, folder / "houses.csv")
    parquet.write_table(table, folder / "houses.parquet", row_group_size=7_000)
    (folder / "houses.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def on_windows(cwd, *commands):
    """Start commands as on Windows: in a language of its own, with a console that has 256 characters."""
    words = [word for command in commands for word in ("then", *command)][1:]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(cwd), "OMP_NUM_THREADS": "1"}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.windows", *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="cp1252",
        start_new_session=True,  # whose processes are asked what they have open
    )


@pytest.fixture(scope="module")
def windows(folder):
    """The folder after all commands, and what they said."""
    interrupted = on_windows(folder, (*LONG, *NO_PICTURES))
    while not (folder / "runs/scratch/version_0/checkpoints/last.ckpt").exists():
        assert interrupted.poll() is None, interrupted.stderr.read()
        time.sleep(0.05)
    interrupted.send_signal(signal.SIGINT)
    said, _ = interrupted.communicate(timeout=120)
    assert (interrupted.returncode, "stopped by SIGINT" in said) == (130, True), said
    run = "runs/houses/version_0"
    process = on_windows(
        folder,
        (*LONG, "--resume", *NO_PICTURES),
        ("fit", "--config", "houses.yaml"),
        ("report", run),
        ("predict", "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt"),
        ("export", run),
        ("shuffle", "houses.parquet", "shuffled.parquet", "--memory", "1"),
        ("sweep", "--config", "scratch", "--model.lr", "0.01,5", "--trainer.max_epochs", "1"),
        *(("fit", "--config", name, *NO_PICTURES) for name in ("concise", "fused", "exact", "elastic_net", "table")),
        ("wald", "runs/table/version_0", "x = 1"),
        ("refit", "runs/elastic_net/version_0", "--model.penalty", "0.1", *NO_PICTURES),
        (
            "fit",
            "--config",
            "scratch",
            "--config",
            "trainer/ddp_cpu",
            "--trainer.default_root_dir",
            "two",
            *NO_PICTURES,
        ),
    )
    said, errors = process.communicate(timeout=400)
    assert (process.returncode, errors) == (0, ""), said
    return folder, said


def test_windows_leaves_every_result(windows):
    folder, said = windows
    runs = {path.parent.relative_to(folder).as_posix() for path in folder.glob("**/report.json")}
    names = ("concise", "fused", "exact", "elastic_net", "table", "houses")
    expected = {f"runs/{name}/version_0" for name in names} | {
        "runs/elastic_net/version_1",
        "two/runs/scratch/version_0",
    }
    assert expected <= runs
    assert json.loads((folder / "runs/scratch/sweep_0/sweep.json").read_bytes())["finished"]
    assert parquet.read_metadata(folder / "shuffled.parquet").num_rows == 150_000
    assert parquet.read_metadata(folder / "runs/houses/version_0/predictions.parquet").num_rows == 150_000
    assert (folder / "runs/houses/version_0/figures/fit.png").is_file()
    assert "größe" in said  # which cp1252 has, unlike 房价
    assert "??" in said


def test_windows_fits_a_streamed_table(windows):
    folder, _ = windows
    model = json.loads((folder / "runs/houses/version_0/model.json").read_bytes())
    assert str(model).count("房价")
    report = json.loads((folder / "runs/houses/version_0/report.json").read_bytes())
    assert [row["estimate"] for row in report["coefficients"]] == pytest.approx([1, 2, 3], abs=0.02)


def test_windows_resumes_an_interrupted_fit(windows, linreg):
    folder, _ = windows
    whole = linreg(*LONG, *NO_PICTURES).succeeded()
    newest = max(folder.glob("runs/scratch/version_*"), key=lambda path: path.name)
    assert newest.name != "version_0"
    resumed = torch.load(newest / "checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(resumed["state_dict"]["w"], whole.last["state_dict"]["w"])


def test_windows_agrees_on_two_processes(windows, scratch_fit):
    folder, _ = windows
    report = json.loads((folder / "two/runs/scratch/version_0/report.json").read_bytes())
    assert report["world_size"] == 2
    assert {row["name"]: row["estimate"] for row in report["coefficients"]} == pytest.approx(scratch_fit.coefficients)


def test_windows_has_names_for_all_files_and_no_temporary_one_is_left(windows):
    folder, _ = windows
    names = {path.name for path in folder.rglob("*")}
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


@pytest.fixture
def macos(monkeypatch):
    """Neither preadv nor /proc; fsync leaves data in the drive's memory; a GPU without float64."""
    flushed, control = [], system.fcntl.fcntl

    def fcntl(descriptor, command, *arguments):
        return flushed.append(descriptor) if command == 51 else control(descriptor, command, *arguments)

    monkeypatch.delattr(os, "preadv")
    monkeypatch.setattr(system, "OPEN_FILES", "/nowhere")
    monkeypatch.setattr(system.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(system.fcntl, "fcntl", fcntl)
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(csv_files, "LARGE", 2**20)  # a larger file becomes a temporary one
    return flushed


def test_macos_fits_predicts_and_exports(macos, folder, tmp_path, without_pictures):
    shutil.copy(folder / "houses.csv", tmp_path)
    shutil.copy(folder / "houses.yaml", tmp_path)
    run = "runs/houses/version_0"
    fit = in_process(tmp_path, "fit", "--config", "houses.yaml").succeeded()
    assert list(fit.coefficients.values()) == pytest.approx([1, 2, 3], abs=0.02)
    in_process(tmp_path, "predict", "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt")
    assert parquet.read_metadata(tmp_path / run / "predictions.parquet").num_rows == 150_000
    in_process(tmp_path, "export", run).succeeded()
    assert len(macos) > 5


def test_macos_fits_without_its_gpu(macos, monkeypatch):
    data = Synthetic()
    trainer(linreg_pl.Trainer, accelerator="auto").fit(Scratch(num_features=2), datamodule=data)
    plain = trainer(linreg_pl.Trainer, accelerator="auto")
    monkeypatch.setattr(type(plain.strategy), "root_device", torch.device("mps"))
    with pytest.raises(InputError, match="Apple's GPUs have no float64"):
        plain.fit(Scratch(num_features=2), datamodule=data)
