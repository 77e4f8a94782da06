"""Validate, test and predict from a run's own config.yaml and last.ckpt."""

import numpy as np
import pytest
from pyarrow import parquet
from sklearn.metrics import mean_squared_error, r2_score

from linreg_pl.data.synthetic import Synthetic
from tests.support.commands import SCRATCH, in_process


def from_the_run(outcome, command, *arguments):
    """Run a command from a run's own files."""
    files = ("--config", outcome.run / "config.yaml", "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    return in_process(outcome.cwd, command, *files, *arguments).succeeded()


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


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_checkpoint_is_needed(linreg, command):
    outcome = linreg(command, "--config", SCRATCH)
    sentence = f"error: {command} needs a fitted model: --ckpt_path RUN/checkpoints/last.ckpt\n"
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", sentence)
