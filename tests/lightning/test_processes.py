"""Several processes, started as Lightning starts them from a script; they end with the weights of one process."""

import json
import os
import subprocess
import sys

import pytest

from tests.lightning import script
from tests.lightning.own import NOISE, ROOT

pytestmark = NOISE
OURS = [f"{fits} {data}" for fits in ("Scratch", "Concise", "Fused", "Exact") for data in ("Synthetic", "Table")]
LOADERS = [f"{fits} loader" for fits in ("OwnModule", "Scratch", "Concise", "Fused", "Exact")]
UNDER_OURS = [f"{name} ours" for name in ("Scratch Synthetic", "Concise Table", "Fused Synthetic", "Exact Table")]


def run(strategies, folder):
    """What the script prints in processes of its own: the fits by their names, each under a strategy."""
    command = [sys.executable, script.__file__, json.dumps(strategies)]
    options = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, "timeout": 300}
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Error" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """Fits of all models by two processes: look, but do not touch."""
    return run(dict.fromkeys([*OURS, *LOADERS, *UNDER_OURS], "ddp"), tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def alone():
    """The same fits by this process alone."""
    return {name: script.fit(name) for name in (*OURS, *LOADERS)}


def agree(found, expected):
    """Whether weights and metrics are the same, up to the order in which float32 is added."""
    for part in ("weights", "units", "known"):
        assert found[part] == pytest.approx(expected[part], rel=1e-4), part
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_weights_and_metrics_of_one_process(name, ddp, alone):
    agree(ddp[name], alone[name])


@pytest.mark.parametrize("name", UNDER_OURS)
def test_under_our_trainer(name, ddp):
    agree(ddp[name], ddp[name.removesuffix(" ours")])


@pytest.mark.parametrize("fits", ["Scratch", "Concise", "Fused"])
def test_a_loader_of_ones_own_is_shared_out_as_lightning_does(fits, ddp, alone):
    """Each process draws mini-batches of its own, so two make one of twice the size."""
    own = ddp["OwnModule loader"]["weights"]
    weights = ddp[f"{fits} loader"]["weights"]
    assert weights == pytest.approx(own, rel=1e-5)
    assert weights != pytest.approx(alone[f"{fits} loader"]["weights"], rel=1e-5)


def test_exact_finds_the_optimum_of_a_loader_of_ones_own(ddp, alone):
    assert ddp["Exact loader"]["weights"] == pytest.approx(alone["Exact loader"]["weights"])
    assert ddp["Exact loader"]["metrics"] == pytest.approx(alone["Exact loader"]["metrics"])


def test_spawned_and_forked(alone, tmp_path):
    """The model comes back from the other processes, with all it needs."""
    found = run({"Concise Table": "ddp_spawn", "Exact Table": "ddp_fork"}, tmp_path)
    for name in found:
        agree(found[name], alone[name])


def test_spawned_processes_average_each_on_its_own(tmp_path):
    """They are given the same memory, which both would write to."""
    names = [f"{fits} averaged" for fits in ("Scratch", "Concise", "Fused")]
    found = run(dict.fromkeys(names, "ddp_spawn"), tmp_path)
    for name in names:
        agree(found[name], script.fit(name))
