"""Promise 3: a run that was stopped and goes on ends with the very weights of one that was not."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from linreg_pl.models import Scratch
from tests.support.commands import CONCISE, SCRATCH, in_process, on_processes

BOTH = pytest.mark.parametrize("config", [SCRATCH, CONCISE], ids=lambda config: config.stem)


@pytest.fixture
def whole(request, config):
    """The run that was not stopped."""
    return request.getfixturevalue(f"{config.stem}_fit")


@pytest.fixture
def folders(tmp_path):
    """Two folders: of the run that stops, and of the one that goes on."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path / "first", tmp_path / "second"


def assert_same_end(outcome, whole):
    assert outcome.report["steps"] == whole.report["steps"] == 300
    assert outcome.report["epochs"] == whole.report["epochs"] == 3
    for name, weights in whole.last["state_dict"].items():
        np.testing.assert_array_equal(outcome.last["state_dict"][name], weights, strict=True)  # to the bit
    for part in ("train", "val", "gradients"):
        assert outcome.report[part] == whole.report[part]
    assert outcome.stdout.split("\n\n")[1:3] == whole.stdout.split("\n\n")[1:3]  # the tables


@BOTH
def test_after_an_epoch(folders, config, whole):
    stopped = in_process(folders[0], "fit", "--config", config, "--trainer.max_epochs", 2).succeeded()
    checkpoint = stopped.run / "checkpoints/last.ckpt"
    resumed = in_process(folders[1], "fit", "--config", config, "--ckpt_path", checkpoint).succeeded()
    assert resumed.stdout.startswith("epoch 3, loss")
    assert_same_end(resumed, whole)


@BOTH
@pytest.mark.parametrize("step", [37, 185, 296])
def test_from_a_checkpoint_within_an_epoch(folders, config, whole, step):
    flags = ("--checkpoint.every_n_train_steps", 37, "--checkpoint.save_top_k", -1)
    stopped = in_process(folders[0], "fit", "--config", config, *flags).succeeded()
    assert_same_end(stopped, whole)  # the last checkpoint is of the last step
    (checkpoint,) = stopped.run.glob(f"checkpoints/*step={step}.ckpt")
    resumed = in_process(folders[1], "fit", "--config", config, *flags, "--ckpt_path", checkpoint).succeeded()
    assert_same_end(resumed, whole)


@BOTH
@pytest.mark.parametrize("every_n_steps", [37, None])
def test_after_max_steps_within_an_epoch(folders, config, whole, every_n_steps):
    flags = ("--checkpoint.every_n_train_steps", every_n_steps) if every_n_steps else ()
    stopped = in_process(folders[0], "fit", "--config", config, *flags, "--trainer.max_steps", 137).succeeded()
    assert stopped.last["global_step"] == 137
    checkpoint = stopped.run / "checkpoints/last.ckpt"
    resumed = in_process(folders[1], "fit", "--config", config, *flags, "--ckpt_path", checkpoint).succeeded()
    assert_same_end(resumed, whole)


@BOTH
def test_at_every_second_step(folders, config):
    """Four runs of two steps each, over the end of an epoch, are one of eight."""
    # Five steps an epoch, the last of 7 rows: too few to come near the optimum.
    flags = ("--data.num_train", 47, "--checkpoint.every_n_train_steps", 2, "--guard", "false")
    whole = in_process(folders[0], "fit", "--config", config, *flags, "--trainer.max_steps", 8).succeeded()
    checkpoint = None
    for step in (2, 4, 6, 8):
        folder = folders[1] / str(step)
        folder.mkdir()
        resume = ("--ckpt_path", checkpoint) if checkpoint else ()
        part = in_process(folder, "fit", "--config", config, *flags, "--trainer.max_steps", step, *resume).succeeded()
        checkpoint = part.run / "checkpoints/last.ckpt"
    assert part.report["steps"] == 8
    assert part.coefficients == whole.coefficients


@BOTH
def test_resumed_run_keeps_the_first_ones_files(folders, config):
    stopped = in_process(folders[0], "fit", "--config", config, "--trainer.max_epochs", 1).succeeded()
    before = {path: path.read_bytes() for path in stopped.run.rglob("*") if path.is_file()}
    flags = ("--ckpt_path", stopped.run / "checkpoints/last.ckpt", "--trainer.max_epochs", 2)
    in_process(folders[0], "fit", "--config", stopped.run / "config.yaml", *flags).succeeded()
    assert {path: path.read_bytes() for path in before} == before


def scalars(*runs):
    """Every point of every curve that TensorBoard shows."""
    points = []
    for run in runs:
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        points += [(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    return points


def test_curves_go_on_without_a_gap_and_without_a_point_twice(folders, scratch_fit):
    """The run that stopped wrote points after its last checkpoint; the one that goes on takes them anew."""
    flags = ("--checkpoint.every_n_train_steps", 37, "--checkpoint.save_top_k", -1)
    stopped = in_process(folders[0], "fit", "--config", SCRATCH, *flags, "--trainer.max_steps", 190).succeeded()
    checkpoint = stopped.run / "checkpoints/epoch=1-step=148.ckpt"
    assert max(step for _, step, _ in scalars(stopped.run)) == 190
    resumed = in_process(folders[1], "fit", "--config", SCRATCH, *flags, "--ckpt_path", checkpoint).succeeded()
    assert scalars(resumed.run) == scalars(scratch_fit.run)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_on_another_number_of_processes(tmp_path, before, after, scratch_fit):
    flags = ("fit", "--config", SCRATCH, "--checkpoint.every_n_train_steps", 37)
    on_processes(before, tmp_path, *flags, "--trainer.max_steps", 137).succeeded()
    on_processes(after, tmp_path, *flags, "--resume").succeeded()
    last = torch.load(tmp_path / "runs/scratch/version_1/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 300
    for name, weights in scratch_fit.last["state_dict"].items():
        torch.testing.assert_close(last["state_dict"][name], weights, rtol=1e-5, atol=1e-5)


class TestResume:
    FIT = ("fit", "--model", "Scratch", "--data", "Synthetic", "--data.num_train", 50, "--guard", "false")
    FIT += ("--trainer.max_epochs",)
    RUNS = Path("runs/scratch")

    def test_begins_where_there_is_nothing_to_go_on_with(self, linreg):
        assert linreg(*self.FIT, 1, "--resume").succeeded().stdout.startswith("epoch 1,")

    def test_takes_the_newest_checkpoint_of_the_newest_run(self, linreg, tmp_path):
        for epochs in (3, 1):
            linreg(*self.FIT, epochs).succeeded()
        said = linreg(*self.FIT, 2, "--resume").succeeded().stdout
        assert said.startswith(f"continuing from {self.RUNS}/version_1/checkpoints/last.ckpt\n\nepoch 2,")
        with_file = linreg(*self.FIT, 2, "--ckpt_path", "last").succeeded().stdout
        assert with_file.startswith(f"continuing from {self.RUNS}/version_2/checkpoints/last.ckpt\n")

    @pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: b""])
    def test_passes_over_a_damaged_one_and_says_so(self, linreg, tmp_path, damage):
        linreg(*self.FIT, 2, "--checkpoint.save_top_k", -1).succeeded()
        folder = tmp_path / self.RUNS / "version_0/checkpoints"
        (folder / "last.ckpt").unlink()
        newest = folder / "epoch=1-step=10.ckpt"
        newest.write_bytes(damage(newest.read_bytes()))
        outcome = linreg(*self.FIT, 2, "--resume")
        assert outcome.status == 0
        name = f"{self.RUNS}/version_0/checkpoints/epoch=1-step=10.ckpt"
        assert outcome.stderr == (f"warning: {name}: is not a checkpoint that can be read; taking the one before it\n")
        assert outcome.stdout.startswith(f"continuing from {name.replace('1-step=10', '0-step=5')}\n\nepoch 2,")

    def test_a_finished_run_has_the_same_report_again(self, linreg, tmp_path):
        linreg(*self.FIT, 2).succeeded()
        linreg(*self.FIT, 2, "--resume").succeeded()
        first, second = (
            json.loads((tmp_path / self.RUNS / f"version_{number}/report.json").read_text()) for number in (0, 1)
        )
        del first["seconds"], second["seconds"]
        assert second == first

    def test_what_is_killed_before_it_saves_has_lost_nothing(self, linreg, tmp_path, monkeypatch):
        linreg(*self.FIT, 1).succeeded()
        monkeypatch.setattr(Scratch, "on_train_epoch_start", lambda _: sys.exit(9))
        assert linreg(*self.FIT, 9, "--resume").status == 9
        monkeypatch.undo()
        said = linreg(*self.FIT, 2, "--resume").succeeded().stdout
        assert said.startswith(f"continuing from {self.RUNS}/version_1/checkpoints/last.ckpt\n\nepoch 2,")

    def test_what_a_kill_left_half_written_is_removed(self, linreg, tmp_path):
        run = linreg(*self.FIT, 1).succeeded().run
        code = "import os; from linreg_pl import files; files.commit = lambda *_: os.kill(os.getpid(), 9)\n"
        code += "import pathlib; files.atomic_write(pathlib.Path('last.ckpt'), b'half')"
        killed = subprocess.run([sys.executable, "-c", code], cwd=run / "checkpoints", check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(run.rglob("*.tmp"))) == 1
        linreg(*self.FIT, 2, "--resume").succeeded()
        assert not list(tmp_path.rglob("*.tmp"))

    def test_refused_with_a_file(self, linreg):
        outcome = linreg(*self.FIT, 1, "--resume", "--ckpt_path", "a.ckpt")
        assert (outcome.status, outcome.stderr) == (1, "error: --resume with --ckpt_path a.ckpt: give one of them\n")

    @pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
    def test_last_that_finds_nothing_is_an_error(self, linreg, command):
        outcome = linreg(command, *self.FIT[1:], 1, "--ckpt_path", "last")
        assert (outcome.status, outcome.stderr) == (
            1,
            "error: --ckpt_path last: there is no checkpoint in runs/scratch; name a file, or leave the flag out\n",
        )


def test_optimizer_and_scheduler_go_on_too(folders):
    flags = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.momentum", 0.5, "--guard", "false")
    flags += ("--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", 1)
    whole = in_process(folders[0], "fit", "--config", CONCISE, *flags).succeeded()
    (folders[1] / "first").mkdir()
    stopped = in_process(folders[1] / "first", "fit", "--config", CONCISE, *flags, "--trainer.max_epochs", 1)
    resume = ("--ckpt_path", stopped.succeeded().run / "checkpoints/last.ckpt")
    (folders[1] / "second").mkdir()
    resumed = in_process(folders[1] / "second", "fit", "--config", CONCISE, *flags, *resume).succeeded()
    assert resumed.coefficients == whole.coefficients


def last_of(cwd, version):
    run = cwd / f"runs/run/version_{version}"
    return run, torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


NAMED = ("--trainer.logger", "linreg_pl.runs.logger.RunLogger")
WITHIN = {
    "a scheduler that waits for a plateau": (
        *("--trainer.max_epochs", 6, "--model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau"),
        *("--model.lr_scheduler.monitor", "train/mse", "--model.lr_scheduler.patience", 0, "--guard", "false"),
    ),
    "gradients of several mini-batches": (
        *("--trainer.accumulate_grad_batches", 4, "--checkpoint.every_n_train_steps", 5, "--trainer.max_epochs", 3),
    ),
    "validation within an epoch": ("--trainer.val_check_interval", 30, "--checkpoint.every_n_train_steps", 30),
    "the same mini-batches every epoch": ("--trainer.overfit_batches", 10, "--checkpoint.every_n_train_steps", 3),
}


class Kill(L.Callback):
    """Ends the run at the start of a mini-batch, as a kill would: nothing is saved."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            raise KeyError("killed")


@pytest.mark.parametrize("flags", WITHIN.values(), ids=WITHIN)
@pytest.mark.parametrize("at", [23, 45, 201])
def test_killed_run_goes_on_as_if_nothing_had_been(folders, flags, at):
    fit = ("fit", "--config", CONCISE, *NAMED, *flags)
    if "--trainer.overfit_batches" in flags:
        at = {23: 5, 45: 13, 201: 27}[at]
    in_process(folders[0], *fit).succeeded()
    killing = ("--trainer.callbacks", "tests.cli.test_resume.Kill", "--trainer.callbacks.at", at)
    with pytest.raises(KeyError):
        in_process(folders[1], *fit, *killing)
    in_process(folders[1], *fit, "--resume")
    runs = sorted((folders[1] / "runs/run").iterdir())
    whole, expected = last_of(folders[0], 0)
    resumed, found = last_of(folders[1], len(runs) - 1)
    for name, weights in expected.items():
        assert torch.equal(found[name], weights), name
    assert scalars(resumed) == scalars(whole)


class TestConfigOfAResumedRun:
    def test_feeds_fit_again(self, linreg, tmp_path):
        fit = ("fit", "--config", SCRATCH, *NAMED)
        linreg(*fit, "--trainer.max_epochs", 1).succeeded()
        linreg(*fit, "--trainer.max_epochs", 2, "--resume").succeeded()
        run = tmp_path / "runs/run/version_1"
        goes_on = ("--ckpt_path", run / "checkpoints/last.ckpt", "--trainer.max_epochs", 3)
        linreg("fit", "--config", run / "config.yaml", *goes_on).succeeded()


@pytest.mark.parametrize("model", ["Scratch", "Fused"])
def test_other_rows_are_refused(linreg, tmp_path, model):
    fit = ("fit", "--model", model, "--data", "Synthetic", *NAMED)
    linreg(*fit).succeeded()
    last = tmp_path / "runs/run/version_0/checkpoints/last.ckpt"
    other = linreg(*fit, "--ckpt_path", last, "--data.num_train", 500, "--trainer.max_epochs", 6)
    assert (other.status, other.stderr) == (
        1,
        "error: --ckpt_path: was made with 1,000 training rows, here are 500, and its place in their order would be"
        " another; use the same rows, or start a new fit without --ckpt_path\n",
    )


@pytest.mark.parametrize("name", ["/tmp/thesis.tex", "../thesis.tex", "thesis.tex", "events.out.tfevents./../x"])
def test_checkpoint_cannot_name_other_files(linreg, tmp_path, name):
    linreg("fit", "--config", SCRATCH, *NAMED, "--trainer.max_epochs", 1).succeeded()
    path = tmp_path / "runs/run/version_0/checkpoints/last.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"curves": {name: 0}}, path)
    forged = linreg("fit", "--config", SCRATCH, "--ckpt_path", path)
    assert forged.status == 1
    assert forged.stderr == f"error: --ckpt_path {path}: is damaged: it names {name!r} as a file of curves\n"
