"""Real processes, told to stop by real signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from tests.support.commands import REPOSITORY, Forked, in_process

TRAIN = REPOSITORY / "train.py"

EPOCHS = 200
FIT = ("fit", "--data", "Synthetic", "--data.num_train", "210", "--trainer.max_epochs", str(EPOCHS))
LAST = "checkpoints/last.ckpt"


def launched(folder, *flags):
    """A fit that has come some way."""
    command = [sys.executable, str(TRAIN), *map(str, flags)]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("epoch 20,"):
            return process
    raise AssertionError(process.communicate())


def weights(run):
    return torch.load(run / LAST, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("model", "number", "status"), [("Scratch", signal.SIGTERM, 143), ("Fused", signal.SIGINT, 130)]
)
def test_stopped_run_goes_on_with_the_same_bits(tmp_path, model, number, status):
    flags = (*FIT, "--model", model, "--checkpoint.every_n_train_steps", 10_000)
    fit = Forked(tmp_path, *flags)
    while "epoch 20," not in fit.stdout:
        assert fit.processes[0].is_alive(), fit.end()
    os.kill(fit.processes[0].pid, number)
    ended = fit.end()
    assert (ended.status, ended.stderr) == (status, "")
    said = ended.stdout.splitlines()[-1]
    assert re.match(rf"stopped by {number.name} after step \d+; go on with: python train.py fit --config ", said)
    run = tmp_path / "runs" / model.lower() / "version_0"
    assert (run / "report.json").is_file()
    assert torch.load(run / LAST, weights_only=True)["global_step"] == int(re.search(r"step (\d+)", said)[1])
    in_process(tmp_path, *said.split("train.py ")[1].split()).succeeded()
    in_process(tmp_path, *flags).succeeded()
    resumed, whole = (weights(run.with_name(f"version_{number}")) for number in (1, 2))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_pass_that_is_stopped_has_no_result(tmp_path, linreg):
    x = np.arange(60_000.0)
    parquet.write_table(pa.table({"x": x, "y": 2 * x + 1}), tmp_path / "t.parquet", row_group_size=100)
    exact = ("fit", "--model", "Exact", "--data", "Table", "--data.path", "t.parquet", "--data.target", "y")
    stopping = ("--trainer.callbacks", "tests.cli.test_signals.StopInThirdStep")
    stopped = Forked(tmp_path, *exact, *stopping, "--checkpoint.every_n_train_steps", 1).end()
    assert (stopped.status, stopped.stderr) == (143, "")
    said = stopped.stdout.splitlines()[-1]
    assert re.search(r"after step \d+, within the pass, where nothing is known yet; the same command begins anew", said)
    run = tmp_path / "runs/exact/version_0"
    assert not (run / "report.json").exists()
    checkpoint = run / "checkpoints/last.ckpt"
    for command in (("predict", "--config", run / "config.yaml", "--ckpt_path", checkpoint), ("export", run)):
        refused = linreg(*command)
        assert refused.status == 1
        assert "last.ckpt: holds no coefficients: the fit " in refused.stderr
    assert linreg(*exact, "--resume").succeeded().stdout.startswith("continuing from")
    found = json.loads((run.with_name("version_1") / "report.json").read_text())["coefficients"]
    assert [row["estimate"] for row in found] == pytest.approx([2, 1])


class StopInThirdStep(L.Callback):
    """Sends SIGTERM."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_second_interrupt_stops_at_once(tmp_path):
    slow = ("--data.batch_size", "1", "--data.num_train", "2000000", "--trainer.max_epochs", "1")
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "fit", "--model", "Fused", "--data", "Synthetic", *slow, "--optimum", "false"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    events = tmp_path / "runs"
    while not list(events.rglob("config.yaml")):
        time.sleep(0.05)
    time.sleep(0.5)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.wait(timeout=60) != 0


def test_two_processes_stop_together(tmp_path):
    process = launched(tmp_path, *FIT, "--model", "Scratch", "--config", REPOSITORY / "configs/trainer/ddp_cpu.yaml")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stdout.splitlines()[-1].startswith("stopped by SIGTERM after step ")
    (run,) = (tmp_path / "runs").glob("*/version_0")
    assert torch.load(run / LAST, weights_only=True)["global_step"] >= 20 * 21
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process is left")
