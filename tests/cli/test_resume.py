"""Promise 3: a run that was stopped and goes on ends with the very weights of one that was not."""

import numpy as np
import pytest

from tests.commands import CONCISE, SCRATCH, in_process

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
    flags = ("--data.num_train", 47, "--checkpoint.every_n_train_steps", 2)  # five steps an epoch, the last of 7 rows
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
