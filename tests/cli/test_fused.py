"""Fused through the command line: the run of Scratch, on one process or several, resumed anywhere."""

import re

import pytest
import torch

from tests.support.commands import CONFIGS, SCRATCH, in_process, on_processes

FUSED = CONFIGS / "fused.yaml"
UNEVEN = ("--data.num_train", 1003, "--data.batch_size", 16)


def test_default_run_is_that_of_scratch(linreg, scratch_fit):
    fused = linreg("fit", "--config", FUSED).succeeded()
    epochs = [re.findall(r"epoch \d, loss [\d.]+", run.stdout) for run in (fused, scratch_fit)]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 3
    assert fused.coefficients == pytest.approx(scratch_fit.coefficients, abs=1e-5)
    same = ("steps", "epochs", "num_train", "num_features", "batch_size", "lr", "noise_floor")
    assert {key: fused.report[key] for key in same} == {key: scratch_fit.report[key] for key in same}


@pytest.mark.parametrize(("processes", "scan", "chunks_in_an_epoch"), [(2, False, 32), (2, True, 1), (3, True, 1)])
def test_one_sum_over_processes_per_chunk(tmp_path, tmp_path_factory, processes, scan, chunks_in_an_epoch):
    one = in_process(tmp_path_factory.mktemp("one"), "fit", "--config", SCRATCH, *UNEVEN).succeeded()
    counting = ("--trainer.callbacks+", "tests.support.counting.CountReductions", "--trainer.callbacks.scan", scan)
    many = on_processes(processes, tmp_path, "fit", "--config", FUSED, *UNEVEN, *counting).succeeded()
    assert many.coefficients == pytest.approx(one.coefficients, abs=1e-5)
    assert many.report["steps"] == one.report["steps"] == 3 * 63
    reductions, chunks = map(int, re.search(r"reductions (\d+) chunks (\d+)", many.stdout).groups())
    assert reductions == chunks == 3 * chunks_in_an_epoch


@pytest.mark.parametrize("step", [37, 111, 148, 296])
def test_resumed_from_any_checkpoint_the_bits_are_the_same(tmp_path, tmp_path_factory, step):
    every = ("--checkpoint.every_n_train_steps", 37, "--checkpoint.save_top_k", -1)
    whole = in_process(tmp_path, "fit", "--config", FUSED, *every).succeeded()
    (checkpoint,) = (whole.run / "checkpoints").glob(f"*step={step}.ckpt")
    other = tmp_path_factory.mktemp("resumed")
    resumed = in_process(other, "fit", "--config", FUSED, *every, "--ckpt_path", checkpoint).succeeded()
    assert resumed.last["global_step"] == 300
    assert torch.equal(resumed.last["state_dict"]["theta"], whole.last["state_dict"]["theta"])


def test_stopped_by_max_steps_and_resumed(tmp_path, tmp_path_factory):
    whole = in_process(tmp_path_factory.mktemp("whole"), "fit", "--config", FUSED).succeeded()
    stopped = in_process(tmp_path, "fit", "--config", FUSED, "--trainer.max_steps", 137).succeeded()
    other = tmp_path_factory.mktemp("resumed")
    last = stopped.run / "checkpoints/last.ckpt"
    resumed = in_process(other, "fit", "--config", FUSED, "--ckpt_path", last).succeeded()
    assert torch.equal(resumed.last["state_dict"]["theta"], whole.last["state_dict"]["theta"])


@pytest.mark.parametrize(
    ("flag", "value"), [("limit_train_batches", 3), ("val_check_interval", 0.5), ("overfit_batches", 2)]
)
def test_flags_that_count_mini_batches_are_refused(linreg, flag, value):
    run = linreg("fit", "--config", FUSED, f"--trainer.{flag}", value)
    assert run.status == 1
    assert run.stderr.startswith(
        f"error: --trainer.{flag} {float(value)}: counts mini-batches"
    ) or run.stderr.startswith(f"error: --trainer.{flag} {value}: counts mini-batches")
