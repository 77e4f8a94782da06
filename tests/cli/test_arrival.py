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


def test_it_takes_about_as_many_epochs_as_it_says(tables, tmp_path):
    data = ("--data.path", tables / "stackloss.csv", "--data.target", "STACKLOSS", "--figures", "false")
    config = ("fit", "--config", CONFIGS / "table.yaml", "--model.average", "false", "--data.batch_size", 21)
    short = in_process(tmp_path, *config, *data, "--trainer.max_epochs", 10, "--guard", "false").succeeded()
    said = short.report["epochs_to_go"]
    arrived = in_process(tmp_path, *config, *data, "--trainer.max_epochs", 5000, "--stop_within", 0.5).succeeded()
    assert arrived.report["joint_distance"] <= 0.5
    assert 0.5 < (arrived.report["epochs"] - 10) / said <= 1.01  # the other directions have shrunk by then


def test_auto_is_a_quarter_of_the_largest_and_kept(tmp_path):
    flags = ("fit", "--config", CONFIGS / "table.yaml", "--trainer.max_epochs", 2, "--guard", "false")
    outcome = in_process(tmp_path, *flags).succeeded()
    lr = outcome.report["lr"]
    assert outcome.stdout.startswith(f"lr {lr:.4g}, a quarter of the largest stable step size\n")
    assert re.search(rf"^ +lr: {lr}$", (outcome.run / "config.yaml").read_text(), re.MULTILINE)
    again = in_process(tmp_path, "fit", "--config", outcome.run / "config.yaml", "--guard", "false").succeeded()
    assert again.coefficients == outcome.coefficients
    resumed = in_process(
        tmp_path,
        *flags[:-4],
        "--trainer.max_epochs",
        4,
        "--guard",
        "false",
        "--ckpt_path",
        outcome.run / "checkpoints/last.ckpt",
    ).succeeded()
    whole = in_process(tmp_path, *flags[:-4], "--trainer.max_epochs", 4, "--guard", "false").succeeded()
    assert resumed.coefficients == whole.coefficients
