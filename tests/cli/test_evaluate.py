"""Validate, test and predict from a run's own config.yaml and last.ckpt."""

import os
import time

import numpy as np
import pytest
from pyarrow import parquet
from sklearn.metrics import mean_squared_error, r2_score

from linreg_pl.data.synthetic import Synthetic
from tests.support.commands import SCRATCH, Forked, in_process


def from_the_run(outcome, command, *arguments):
    """Run a command from a run's own files."""
    return in_process(outcome.cwd, command, outcome.run, *arguments).succeeded()


def arithmetic(coefficients, part):
    """Predicted and true target of a part of the default data."""
    X, y = (tensor.double().numpy() for tensor in Synthetic().raw(part))
    return X @ [coefficients["x0"], coefficients["x1"]] + coefficients["bias"], y[:, 0]


@pytest.mark.parametrize(("command", "part"), [("validate", "val"), ("test", "test")])
def test_scores_are_those_of_the_coefficients(fitted_copy, command, part):
    before = fitted_copy.report
    outcome = from_the_run(fitted_copy, command)
    predicted, y = arithmetic(fitted_copy.coefficients, part)
    scores = fitted_copy.report[part]
    assert scores["mse"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-4)
    assert scores["r2"] == pytest.approx(r2_score(y, predicted), abs=1e-8)
    assert f"{scores['mse']:.6g}" in outcome.stdout
    assert {key: value for key, value in fitted_copy.report.items() if key != part} == {
        key: value for key, value in before.items() if key != part
    }


def test_prediction_of_every_row_is_the_affine_map(fitted_copy):
    outcome = from_the_run(fitted_copy, "predict")
    table = parquet.read_table(fitted_copy.run / "predictions.parquet")
    predicted, _ = arithmetic(fitted_copy.coefficients, "test")
    assert table["row"].to_pylist() == list(range(200))
    np.testing.assert_allclose(table["prediction"], predicted, atol=1e-5)
    assert outcome.stdout.startswith("200 predictions in ")
    assert not list(fitted_copy.run.glob("*.tmp"))


def test_evaluation_makes_no_run_of_its_own(fitted_copy):
    from_the_run(fitted_copy, "validate")
    assert fitted_copy.run.name == "version_0"  # fails if there are several


def test_two_commands_may_predict_into_one_file(fitted_copy):
    """The file is that of the one that ends last; what another left an hour ago, when it was killed, is removed."""
    left = fitted_copy.cwd / ".p.parquet.1.0.tmp"
    left.touch()
    os.utime(left, times=(time.time() - 4000, time.time() - 4000))
    flags = ("--predictions", "p.parquet", "--data.num_test", 400_000)
    both = [Forked(fitted_copy.cwd, "predict", fitted_copy.run, *flags) for _ in range(2)]
    for command in both:
        assert command.end().status == 0, command.end().stderr
    assert parquet.read_table(fitted_copy.cwd / "p.parquet")["row"].to_pylist() == list(range(400_000))
    assert not list(fitted_copy.cwd.glob("*.tmp"))


def test_damaged_report_is_refused_and_stays(fitted_copy):
    path = fitted_copy.run / "report.json"
    whole = path.read_text()
    number = fitted_copy.report["coefficients"][0]["estimate"]
    for damaged in (
        "[]",
        '{"coefficients": 1}',
        whole.replace(f"{number!r}", "[1e19]"),
        whole.replace(f"{fitted_copy.report['num_features']},", "1e19,", 1),
        whole.replace('"coefficients"', '"coefs"'),
        whole.replace('"name": "x0"', '"name": 7'),
        "[" * 100_000 + "]" * 100_000,
        whole.replace('"net":', f'"more": {"[" * 500}{"]" * 500}, "net":'),
    ):
        path.write_text(damaged)
        for command in ("report", "validate"):
            outcome = in_process(fitted_copy.cwd, command, fitted_copy.run)
            assert (outcome.status, outcome.stderr) == (0, "") or outcome.stderr.startswith(f"error: {path}: is not ")
        assert outcome.status == 0 or path.read_text() == damaged


def test_texts_of_a_report_have_no_control_characters(fitted_copy):
    path = fitted_copy.run / "report.json"
    path.write_text(path.read_text().replace('"net": "', '"note": "a\\u001b[31mb", "net": "\\u001b]0;title\\u0007'))
    outcome = in_process(fitted_copy.cwd, "report", fitted_copy.run).succeeded()
    assert "\x1b" not in outcome.stdout
    assert "a\N{REPLACEMENT CHARACTER}[31mb\n" in outcome.stdout


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_folder_that_is_no_run_is_refused(linreg, command):
    outcome = linreg(command, "nope")
    sentence = "error: nope: holds no config.yaml; give the folder of a run, runs/NAME/version_N\n"
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", sentence)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_checkpoint_is_needed(linreg, command):
    outcome = linreg(command, "--config", SCRATCH)
    sentence = f"error: {command} needs a fitted model: python train.py {command} RUN\n"
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", sentence)
