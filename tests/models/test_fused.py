"""Fused against Scratch: the same trajectory, counted in the same steps."""

import os
import socket
import warnings

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from linreg_pl.data.synthetic import Synthetic
from linreg_pl.functional.fused.steps import steps_per_chunk
from linreg_pl.models import Fused, Scratch

NOISE_FLOOR = 5e-5  # of the half squared error
ROUNDING = 1e-7  # of a loss: float32 residuals of targets of size 10, squared


class Losses(L.Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values += outputs["losses"].tolist() if "losses" in outputs else [outputs["loss"].item()]


def trained(model, rows, batch_size, **flags):
    """Fit on the notebook's data; the model and the losses of its steps."""
    losses = Losses()
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    torch.manual_seed(0)
    trainer = L.Trainer(accelerator="cpu", callbacks=[losses], **off, **({"max_epochs": 3} | flags))
    model = model()
    trainer.fit(model, Synthetic(num_train=rows, batch_size=batch_size, num_val=0))
    return model, np.array(losses.values), trainer.global_step


pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and devices


SIZES = [(1000, 1), (1000, 10), (1003, 16), (1003, 1000), (1000, 5000)]  # rows, batch size


@pytest.mark.parametrize(("rows", "batch_size"), SIZES)
def test_the_trajectory_is_that_of_scratch(rows, batch_size):
    fused, losses, steps = trained(lambda: Fused(2), rows, batch_size)
    scratch, wanted, wanted_steps = trained(lambda: Scratch(2), rows, batch_size)
    assert steps == wanted_steps == len(wanted) == 3 * -(-rows // batch_size)
    weight, bias = fused.coefficients()
    np.testing.assert_allclose(weight, scratch.coefficients()[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(bias, scratch.coefficients()[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=ROUNDING)


def process(rank, world_size, port, folder):
    """One of several processes that train together."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for rows, batch_size in SIZES:
        fused, losses, _ = trained(lambda: Fused(2), rows, batch_size, strategy="ddp", devices=world_size)
        if rank == 0:
            torch.save((*fused.coefficients(), torch.from_numpy(losses)), folder / f"{batch_size}.pt")


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_trajectory_over_several_processes_is_that_of_scratch_on_one(tmp_path, world_size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(process, (world_size, port, tmp_path), world_size, start_method="forkserver")
    for rows, batch_size in SIZES:
        weight, bias, losses = torch.load(tmp_path / f"{batch_size}.pt", weights_only=True)
        scratch, wanted, _ = trained(lambda: Scratch(2), rows, batch_size)
        np.testing.assert_allclose(weight, scratch.coefficients()[0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(bias, scratch.coefficients()[1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=ROUNDING, err_msg=f"batches of {batch_size}")


@pytest.mark.parametrize("options", [{"bias": False}, {"weight_decay": 0.1}, {"lr": 0.2, "init_std": 1.0}])
def test_every_argument_means_what_it_means_to_scratch(options):
    fused, losses, _ = trained(lambda: Fused(2, **options), 205, 10)
    scratch, wanted, _ = trained(lambda: Scratch(2, **options), 205, 10)
    np.testing.assert_allclose(fused.coefficients()[0], scratch.coefficients()[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=1e-4 * NOISE_FLOOR)
    assert fused.has_bias == scratch.has_bias


@pytest.mark.parametrize("max_steps", [1, 99, 100, 101, 250])
def test_max_steps_counts_sgd_steps(max_steps):
    fused, losses, steps = trained(lambda: Fused(2), 1000, 10, max_steps=max_steps, max_epochs=-1)
    scratch, *_ = trained(lambda: Scratch(2), 1000, 10, max_steps=max_steps, max_epochs=-1)
    assert steps == len(losses) == max_steps
    np.testing.assert_allclose(fused.coefficients()[0], scratch.coefficients()[0], rtol=0, atol=1e-5)


def test_chunks_are_long_where_it_pays_and_short_enough_for_memory():
    assert steps_per_chunk(100, 10, 2, by_moments=False) == 4  # 25 points for the curves of the default run
    assert steps_per_chunk(10**6, 10, 2, by_moments=False) * 10 == pytest.approx(2**20, rel=1e-4)
    assert steps_per_chunk(10**6, 10**7, 2, by_moments=False) == 1
    for columns in (1, 2, 8, 32, 256, 5000):
        for batch_size in (1, 10, 1000, 10**7):
            steps = steps_per_chunk(10**6, batch_size, columns, by_moments=True)
            assert steps == 1 or (steps * (columns + 2) ** 2 <= 2**18 and steps * batch_size <= 2**16)
