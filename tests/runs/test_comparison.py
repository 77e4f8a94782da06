"""Tables, formulas and sentences about many runs."""

import numpy as np
import pytest
from scipy import stats

from linreg_pl.runs.comparison import Column, Comparison, evaluate

ROWS = [
    {"model.lr": lr, "seed": seed, "val/mse": 10 * lr + seed, "theory": 10 * lr} for lr in (0.1, 0.2) for seed in (0, 2)
]


def test_repetitions_are_a_mean_and_a_standard_deviation():
    lines = Comparison(ROWS, ["model.lr", "seed"], None, ()).table().splitlines()
    assert [line.split() for line in lines] == [
        ["lr", "runs", "val/mse", "theory"],
        ["0.1", "2", "2", "±", "1.4", "1"],
        ["0.2", "2", "3", "±", "1.4", "2"],
    ]


def test_a_column_is_averaged_over_the_runs_that_are_asked_for():
    column = Column(ROWS, "val/mse")
    assert column["lr=0.2"] == 3
    assert column["seed=2 lr=0.1"] == 3
    assert column[""] == 2.5


@pytest.mark.parametrize(
    "formula",
    ["__import__('os')", "(1).__class__", "[1][0]", "lambda: 1", "open('x')", "exec('1')", "[x for x in y]", "f'{lr}'"],
)
def test_formulas_are_arithmetic_alone(formula):
    with pytest.raises((ValueError, NameError)):
        evaluate(formula, {"model.lr": 1})


def test_formula_knows_columns_and_mathematics():
    assert (
        evaluate("sqrt(lr) + error_bias if loss == 'huber' else -1", {"lr": 4, "error/bias": 1, "loss": "huber"}) == 3
    )


def test_slope_and_its_standard_error_are_those_of_a_line_through_the_logarithms():
    rows = [{"n": n, "mse": mse} for n, mse in ((1, 50.0), (10, 3.0), (100, 0.4), (1000, 0.02), (10000, 0.003))]
    x, y = (np.log([row[key] for row in rows[1:]]) for key in ("n", "mse"))
    expected = stats.linregress(x, y)
    found = Comparison(rows, ["n"], "n", ["mse"]).slope(10)
    assert found == pytest.approx({"slope": expected.slope, "slope_error": expected.stderr})
