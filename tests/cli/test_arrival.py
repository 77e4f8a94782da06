"""SGD on real tables: it arrives at the optimum, or says in one sentence why not."""

import re

import numpy as np
import pytest
import statsmodels.api as sm

from tests.support.commands import CONFIGS, in_process

TABLES = {  # of statsmodels, and their targets
    "longley": "TOTEMP",
    "stackloss": "STACKLOSS",
    "scotland": "YES",
    "copper": "WORLDCONSUMPTION",
    "ccard": "AVGEXP",
    "fair": "affairs",
    "star98": "NABOVE",
    "elnino": "JAN",
    "sunspots": "SUNACTIVITY",
    "cpunish": "EXECUTIONS",
    "randhie": "mdvis",
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for name, target in TABLES.items():
        table = getattr(sm.datasets, name).load_pandas().data.select_dtypes("number").dropna().astype(float)
        centred = (table.drop(columns=target) - table.drop(columns=target).mean()).to_numpy()
        norms = np.linalg.norm(centred, axis=0)
        independent = [0]
        for column in range(1, centred.shape[1]):  # the books' tables have copies of columns
            chosen = [*independent, column]
            if np.linalg.cond(centred[:, chosen] / norms[chosen]) < 1e6:
                independent = chosen
        features = [table.drop(columns=target).columns[column] for column in independent]
        table[[*features, target]].to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.mark.parametrize("model", ["Concise", "Scratch", "Fused"])
@pytest.mark.parametrize("name", TABLES)
def test_sgd_arrives_or_says_why_not(tables, tmp_path, name, model):
    data = ("--data.path", tables / f"{name}.csv", "--data.target", TABLES[name])
    steps = ("--trainer.max_epochs", 10) if name in ("randhie", "fair") else ()  # 20,190 and 6,366 rows
    config = ("--config", CONFIGS / "table.yaml")
    kind = ("--model.class_path", f"linreg_pl.models.{model}")
    outcome = in_process(
        tmp_path, "fit", *config, *kind, *data, *steps, "--figures", "false", "--trainer.logger", "false"
    )
    assert outcome.status == 0, outcome.stderr
    distance = float(re.search(r"joint distance ([\d.,e+-]+),", outcome.stdout)[1].replace(",", ""))
    if distance > 1:
        assert re.search(
            r"(too few steps|so alike .*): it takes about [\d,]+ more epochs|so alike .* that it takes about"
            r" [\d,]+ more epochs",
            outcome.stdout,
        )


@pytest.fixture
def fit(tmp_path_factory):
    """Fit by table.yaml, in a folder of its own."""

    def run(*flags, config=CONFIGS / "table.yaml"):
        folder = tmp_path_factory.mktemp("fit")
        flags = ("--figures", "false", "--guard", "false", *flags)
        return in_process(folder, "fit", "--config", config, *flags).succeeded()

    return run


def test_it_takes_at_most_as_many_epochs_as_it_says(fit, tables):
    data = ("--data.path", tables / "stackloss.csv", "--data.target", "STACKLOSS", "--data.batch_size", 21)
    short = fit(*data, "--model.average", "false", "--trainer.max_epochs", 10)
    said = short.report["epochs_to_go"]
    arrived = fit(*data, "--model.average", "false", "--trainer.max_epochs", 5000, "--stop_within", 0.5)
    assert arrived.report["joint_distance"] <= 0.5
    assert 0 < arrived.report["epochs"] - 10 <= said  # as if all of the distance were in the slowest direction


def test_auto_is_a_quarter_of_the_largest_and_kept(fit):
    two = ("--data.path", CONFIGS / "norris.csv", "--trainer.max_epochs", 2)
    four = (*two[:-1], 4)
    outcome = fit(*two)
    lr = outcome.report["lr"]
    assert outcome.stdout.startswith(f"lr {lr:.4g}, a quarter of the largest stable step size\n")
    assert re.search(rf"^ +lr: {lr}$", (outcome.run / "config.yaml").read_text(), re.MULTILINE)
    assert fit(config=outcome.run / "config.yaml").coefficients == outcome.coefficients
    resumed = fit(*four, "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    assert resumed.coefficients == fit(*four).coefficients


@pytest.mark.parametrize("model", ["Scratch", "Concise", "Fused"])
def test_the_average_is_that_of_the_steps(fit, model):
    """``a ← a + 4 / (t + 3) (θ - a)`` over the iterates of gradient descent, computed by hand."""
    y, x = np.loadtxt(CONFIGS / "norris.csv", delimiter=",", skiprows=1, unpack=True)
    flags = ("--data.path", CONFIGS / "norris.csv", "--data.batch_size", 36, "--model.init_std", 0)
    lr = 0.1 if model == "Concise" else 0.2  # the other two have half the loss
    kind = ("--model.class_path", f"linreg_pl.models.{model}", "--model.lr", lr, "--model.average", "true")
    outcome = fit(*flags, *kind, "--trainer.max_epochs", 5)
    z = (x - x.mean()) / x.std()
    Z, theta, average = np.column_stack([z, np.ones(36)]), np.zeros(2), np.zeros(2)
    for step in range(1, 6):
        theta = theta - 0.2 * Z.T @ (Z @ theta - y) / 36
        average += 4 / (step + 3) * (theta - average)
    weight = average[0] / x.std()
    assert outcome.coefficients == pytest.approx({"x": weight, "bias": average[1] - x.mean() * weight}, abs=3e-5)
