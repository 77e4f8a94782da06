import os
import subprocess
import sys

import pytest
import torch

from linreg_pl.runs.checkpoints import newest
from tests.support.commands import in_process


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_last_is_the_newest_checkpoint_under_a_second_name(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links on this file system")))
    in_process(tmp_path, "fit", "--model", "Scratch", "--data", "Synthetic", "--data.num_train", 50).succeeded()
    (folder,) = (tmp_path / "runs" / "scratch").iterdir()
    assert names(folder) == ["epoch=2-step=15.ckpt", "last.ckpt"]
    newest, last = (folder / "checkpoints" / name for name in names(folder))
    assert newest.samefile(last) == links
    assert torch.load(last, weights_only=True)["global_step"] == 15


def test_an_end_within_an_epoch_is_not_taken_for_the_checkpoint_before_it(tmp_path):
    steps = ("--trainer.max_steps", 8, "--checkpoint.every_n_train_steps", 5, "--guard", "false")
    in_process(tmp_path, "fit", "--model", "Scratch", "--data", "Synthetic", *steps).succeeded()
    (folder,) = (tmp_path / "runs" / "scratch").iterdir()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


def test_time_between_checkpoints_holds_where_steps_are_taken_by_hand(tmp_path):
    flags = ("--checkpoint.train_time_interval", "0:0:0", "--checkpoint.save_top_k", -1, "--trainer.max_epochs", 1)
    flags += ("--data.num_train", 50, "--guard", "false")
    in_process(tmp_path, "fit", "--model", "Scratch", "--data", "Synthetic", *flags).succeeded()
    (folder,) = (tmp_path / "runs" / "scratch").iterdir()
    assert names(folder) == [*(f"epoch=0-step={step}.ckpt" for step in range(1, 6)), "last.ckpt"]


LIMITED = """
import resource, sys
from linreg_pl.__main__ import main
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # which is what a full disk looks like, whoever runs this
main()
"""


@pytest.mark.parametrize("full", ["checkpoint", "curves"])
def test_full_disk_ends_a_fit_with_one_sentence_and_a_good_checkpoint(tmp_path, full):
    fit = ("fit", "--model", "Scratch", "--data", "Synthetic", "--data.num_train", "50", "--checkpoint.save_top_k=-1")
    fit = (*fit, "--data.true_weight", str([1.0] * 40))  # whose checkpoints are larger than the curves so far
    whole = in_process(tmp_path, *fit, "--trainer.max_epochs", 2).succeeded()
    sizes = [(whole.run / f"checkpoints/epoch={k}-step={5 * k + 5}.ckpt").stat().st_size for k in (0, 1)]
    assert sizes[0] < sizes[1]
    limit = sizes[0] if full == "checkpoint" else 2 * sizes[1]
    command = [sys.executable, "-c", LIMITED, str(limit), *fit, "--trainer.max_epochs", "500"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    run = "runs/scratch/version_1"
    assert (
        outcome.stderr
        == {
            "checkpoint": f"error: {run}/checkpoints/epoch=1-step=10.ckpt: cannot be written (File too large);"
            f" go on from {run}/checkpoints/last.ckpt\n",
            "curves": f"error: {run}: the curves cannot be written (File too large)\n",
        }[full]
    )
    assert newest(tmp_path / run, tell=pytest.fail) == tmp_path / run / "checkpoints/last.ckpt"
