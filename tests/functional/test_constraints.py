"""Linear constraints and their joint test, against statsmodels."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch

from linreg_pl.errors import InputError
from linreg_pl.functional.constraints import parse_constraints
from tests.functional.test_covariance import inferred, table

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # within statsmodels
NAMES = ["bias", "rooms", "age", "city=Rome", "a b", "city[T.Rome]", "2"]


@pytest.mark.parametrize(
    ("text", "C", "d"),
    [
        ("rooms", [[0, 1, 0, 0, 0, 0, 0]], [0]),
        ("rooms = 2 * age, {city=Rome} = 0", [[0, 1, -2, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]], [0, 0]),
        ("{a b} - 3 * (rooms - 2) = 1.5e1", [[0, -3, 0, 0, 1, 0, 0]], [9]),
        ("city[T.Rome] = 2e-3 + rooms / 4", [[0, -0.25, 0, 0, 0, 1, 0]], [0.002]),
        ("-bias + 1 = -age", [[-1, 0, 1, 0, 0, 0, 0]], [-1]),
        ("age = -1", [[0, 0, 1, 0, 0, 0, 0]], [-1]),
        ("rooms = age = 3", [[0, 1, -1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]], [0, 3]),
        ("city=Rome = 1", [[0, 0, 0, 1, 0, 0, 0]], [1]),
        ("{2} = 2", [[0, 0, 0, 0, 0, 0, 1]], [2]),
    ],
)
def test_text_to_matrix(text, C, d):
    found = parse_constraints(text, NAMES)
    np.testing.assert_allclose(found[0], C)
    np.testing.assert_allclose(found[1], d)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("romms = 1", "no coefficient 'romms'; did you mean 'rooms'?"),
        ("{city=Roma} = 1", "no coefficient 'city=Roma'; did you mean 'city=Rome'?"),
        ("rooms = 1, rooms = 2", "contradict each other"),
        ("rooms = 1, 2 * rooms = 2", "follow from each other"),
        ("rooms = age, age = bias, bias = rooms", "follow from each other"),
        ("rooms = age, age = bias, bias = rooms + 1", "contradict each other"),
        ("rooms * age = 0", "is no list of linear constraints (Can't multiply"),
        ("1 / rooms = 0", "is no list of linear constraints (Can't divide"),
        ("log(rooms) = 0", "no coefficient 'log'"),
        ("__import__('os').getcwd() = 0", "no coefficient '__import__'"),
        ("rooms = 1e999", "with finite numbers"),
        ("rooms / 0 = 1", "with finite numbers"),
        ("((((", "is no list of linear constraints"),
        ("1 = 1", "no variables appear in constraint"),
        (" ", "no constraints given"),
        ("rooms =", "is no list of linear constraints"),
        ("rooms\nage = 1", "is no list of linear constraints"),
    ],
)
def test_refused_with_a_sentence(text, sentence):
    with pytest.raises(InputError) as error:
        parse_constraints(text, NAMES)
    assert sentence in str(error.value)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["classical", "HC1", "HC3", "cluster"])
@pytest.mark.parametrize("constraints", ["x1 = 0", "x1 = 2 * x2, x3 = 1", "x1 + x2 + x3 = const, x2, x3 = 0.5"])
def test_as_the_f_test_of_statsmodels(constraints, kind, weighted):
    X, y, weight, random = table(4, 150, 3, weighted)
    keys = random.integers(0, 20, size=150)
    A = pd.DataFrame(sm.add_constant(X), columns=["const", "x1", "x2", "x3"])
    options = {"cov_kwds": {"groups": keys}} if kind == "cluster" else {}
    model = sm.OLS(y, A) if weight is None else sm.WLS(y, A, weights=weight)
    theirs = model.fit(use_t=True, cov_type="nonrobust" if kind == "classical" else kind, **options)
    ours = inferred(X, y, weight, True, "HC0" if kind == "classical" else kind, [keys] * (kind == "cluster"))
    if kind == "classical":
        ours = type(ours)(ours.solution)
    mine = ours.wald(*parse_constraints(constraints, list(A)))
    expected = theirs.f_test(constraints)
    np.testing.assert_allclose(mine.f, np.squeeze(expected.fvalue), rtol=1e-8)
    np.testing.assert_allclose(mine.p, expected.pvalue, rtol=1e-7)
    assert (mine.num_constraints, mine.dof) == (expected.df_num, 19 if kind == "cluster" else expected.df_denom)


def test_fewer_clusters_than_constraints_have_no_test():
    X, y, _, _ = table(4, 150, 3, weighted=False)
    ours = inferred(X, y, None, True, "cluster", [np.arange(150) % 3])
    assert np.isnan(ours.wald(torch.eye(4, dtype=torch.float64)[1:], torch.zeros(3, dtype=torch.float64)).f)
