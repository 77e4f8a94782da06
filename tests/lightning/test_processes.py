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
FAST = [
    f"{name} ours" for name in ("Scratch Synthetic", "Concise Table", "Fused Synthetic", "Exact Table")
]  # under the Trainer of this project


def run(options, names, folder):
    """What the script prints in processes of its own."""
    command = [sys.executable, script.__file__, json.dumps(options), *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Error" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """Fits of all models by two processes: look, but do not touch."""
    return run({"devices": 2, "strategy": "ddp"}, [*OURS, *LOADERS, *FAST], tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def alone():
    """The same fits by this process alone."""
    return dict(script.cases([*OURS, *LOADERS], {}))


def agree(found, expected):
    """Whether weights and metrics are the same, up to the order in which float32 is added."""
    for part in ("weights", "units", "known"):
        assert found[part] == pytest.approx(expected[part], rel=1e-4), part
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_weights_and_metrics_of_one_process(name, ddp, alone):
    agree(ddp[name], alone[name])


@pytest.mark.parametrize("name", FAST)
def test_under_our_trainer(name, ddp):
    agree(ddp[name], ddp[name.removesuffix(" ours")])


@pytest.mark.parametrize("fits", ["Scratch", "Concise", "Fused"])
def test_a_loader_of_ones_own_is_shared_out_as_lightning_does(fits, ddp, alone):
    """Each process draws mini-batches of its own, so two make one of twice the size."""
    own = ddp["OwnModule loader"]["weights"]
    own = [*own[0][0], *own[1]]
    weights = ddp[f"{fits} loader"]["weights"]
    assert weights == pytest.approx(own, rel=1e-5)
    assert weights != pytest.approx(alone[f"{fits} loader"]["weights"], rel=1e-5)


def test_exact_finds_the_optimum_of_a_loader_of_ones_own(ddp, alone):
    assert ddp["Exact loader"]["weights"] == pytest.approx(alone["Exact loader"]["weights"])
    assert ddp["Exact loader"]["metrics"] == pytest.approx(alone["Exact loader"]["metrics"])


@pytest.mark.parametrize(("strategy", "name"), [("ddp_spawn", "Concise Table"), ("ddp_fork", "Exact Table")])
def test_spawned_and_forked(strategy, name, alone, tmp_path):
    """The model comes back from the other processes, with all it needs."""
    found = run({"devices": 2, "strategy": strategy}, [name], tmp_path)
    agree(found[name], alone[name])
