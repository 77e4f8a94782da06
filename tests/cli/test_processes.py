"""Promise 2: the number of processes changes neither weights nor metrics, also where rows do not divide evenly."""

import numpy as np
import pytest
from pyarrow import parquet

from linreg_pl.data.synthetic import Synthetic
from tests.support.commands import CONCISE, DDP, SCRATCH, in_process, in_subprocess, on_processes

UNEVEN = ("--data.num_train", 1003, "--data.batch_size", 16, "--data.num_val", 101, "--data.num_test", 33)
STEPS = 3 * 63  # the last mini-batch of an epoch has 11 rows
LAUNCHED_BY_LIGHTNING, BY_TORCHRUN = ("scratch", 2), ("scratch", 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run on so many processes, once for all tests."""
    done = {}

    def fit(name, processes):
        if (name, processes) not in done:
            folder = tmp_path_factory.mktemp(f"{name}_{processes}")
            command = ("fit", "--config", {"scratch": SCRATCH, "concise": CONCISE}[name], *UNEVEN)
            several = ("--config", DDP, "--trainer.devices", processes)
            if processes == 1:
                done[name, processes] = in_process(folder, *command)
            elif (name, processes) == LAUNCHED_BY_LIGHTNING:
                done[name, processes] = in_subprocess(folder, *command, *several)
            elif (name, processes) == BY_TORCHRUN:
                torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
                done[name, processes] = in_subprocess(folder, *command, *several, launcher=torchrun)
            else:
                done[name, processes] = on_processes(processes, folder, *command)
        return done[name, processes].succeeded()

    return fit


@pytest.mark.parametrize("name", ["scratch", "concise"])
@pytest.mark.parametrize("processes", [2, 3])
def test_weights_and_scores_are_those_of_one_process(run, name, processes):
    one, many = run(name, 1), run(name, processes)
    assert (one.report["world_size"], many.report["world_size"]) == (1, processes)
    assert one.report["steps"] == many.report["steps"] == STEPS
    assert many.coefficients == pytest.approx(one.coefficients, abs=5e-6)
    for part in ("train", "val"):
        assert many.report[part] == pytest.approx(one.report[part], rel=1e-4)


def test_every_row_counts_once_in_the_scores(run):
    outcome = run("scratch", 3)
    X, y = (tensor.double().numpy() for tensor in Synthetic(num_val=101).raw("val"))
    *weight, bias = outcome.coefficients.values()
    assert outcome.report["val"]["mse"] == pytest.approx(((X @ weight + bias - y[:, 0]) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("name", ["scratch", "concise"])
def test_process_0_alone_speaks(run, name):
    outcome = run(name, 2)
    assert [line.split(",")[0] for line in outcome.stdout.splitlines()[:3]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert outcome.stdout.count("epoch 1, loss") == outcome.stdout.count("this run") == 1


def test_prediction_on_two_processes_has_every_row_once(run):
    fit = run("scratch", 2)
    files = ("--config", fit.run / "config.yaml", "--ckpt_path", fit.run / "checkpoints/last.ckpt")
    on_processes(2, fit.cwd, "predict", *files).succeeded()
    table = parquet.read_table(fit.run / "predictions.parquet")
    *weight, bias = fit.coefficients.values()
    assert table["row"].to_pylist() == list(range(33))
    X = Synthetic(num_test=33).raw("test")[0].double().numpy()
    np.testing.assert_allclose(table["prediction"], X @ weight + bias, atol=1e-5)
    assert not list(fit.run.glob("*.tmp"))
