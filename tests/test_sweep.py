import pytest

from linreg_pl.comparison import Column, Comparison
from linreg_pl.sweep import evaluate, values

ROWS = [
    {"model.lr": lr, "seed": seed, "val/mse": 10 * lr + seed, "theory": 10 * lr} for lr in (0.1, 0.2) for seed in (0, 2)
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", ["0.1"]),
        ("0.001,0.01,1e-1", ["0.001", "0.01", "1e-1"]),
        ("0..4", ["0", "1", "2", "3", "4"]),
        ("-1..1,7", ["-1", "0", "1", "7"]),
        ("1, 2,2", ["1", "2"]),
        ("[2, -3.4]", ["[2, -3.4]"]),
        ("[2, -3.4],[1]", ["[2, -3.4]", "[1]"]),
        ("{a: 1, b: 2},x", ["{a: 1, b: 2}", "x"]),
        ("../data/houses.csv", ["../data/houses.csv"]),
        ("true,false", ["true", "false"]),
    ],
)
def test_values_of_a_flag(text, expected):
    assert values(text) == expected


def test_repetitions_are_a_mean_and_a_standard_deviation():
    lines = Comparison(ROWS, ["model.lr", "seed"], None, ()).table().splitlines()
    assert [line.split() for line in lines] == [
        ["lr", "runs", "val/mse", "theory"],
        ["0.1", "2", "2", "±", "1.4", "1"],
        ["0.2", "2", "3", "±", "1.4", "2"],
    ]


def test_a_column_is_asked_by_flags():
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
