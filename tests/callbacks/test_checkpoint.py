import os
import subprocess
import sys

import pytest
import torch

from tests.commands import in_process


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
    steps = ("--trainer.max_steps", 8, "--checkpoint.every_n_train_steps", 5)
    in_process(tmp_path, "fit", "--model", "Scratch", "--data", "Synthetic", *steps).succeeded()
    (folder,) = (tmp_path / "runs" / "scratch").iterdir()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


def test_full_disk_leaves_the_checkpoint_before_it(tmp_path):
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from linreg_pl.callbacks import DurableCheckpointIO\n"
        "from linreg_pl.errors import InputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "path = Path(sys.argv[1], 'last.ckpt')\n"
        "DurableCheckpointIO().save_checkpoint({'a': 1}, path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    DurableCheckpointIO().save_checkpoint({'a': torch.zeros(10_000)}, path)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    path = tmp_path / "last.ckpt"
    assert outcome.stdout == f"{path}: the checkpoint cannot be written (File too large); the one before it is whole\n"
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
