"""What formulas learn piece by piece, against formulaic on the whole table; and what they refuse."""

import formulaic
import numpy as np
import pandas as pd
import pytest

from linreg_pl.data import Table
from linreg_pl.errors import InputError
from linreg_pl.tables.expressions import MAX_LENGTH

ROWS = 3000


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "price": rng.lognormal(3, 1, ROWS),
            "rooms": rng.integers(1, 9, ROWS),
            "age": rng.uniform(1, 90, ROWS).round(1),
            "area": rng.gamma(3, 30, ROWS) + 1000,
            "city": rng.choice(["Rome", "Oslo", "Bern", "Bonn"], ROWS, p=[0.5, 0.4, 0.0995, 0.0005]),
            "kind": pd.Categorical(rng.choice(["a", "b"], ROWS)),
            "year": rng.integers(2000, 2004, ROWS),
            "new": rng.random(ROWS) < 0.3,
            "the area": rng.normal(size=ROWS),
        }
    )


@pytest.fixture(scope="module")
def path(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("formula") / "t.parquet"
    frame.to_parquet(path, row_group_size=211)
    return str(path)


STATEFUL = [
    "price ~ center(area) + scale(age)",
    "price ~ scale(area, center=False) + scale(age, scale=False) + scale(rooms, center=3, ddof=0)",
    "price ~ standardize(area, rescale=False) * standardize(age)",
    "price ~ poly(area, 3)",
    "price ~ poly(area, 5) + poly(rooms, degree=2, raw=True)",
    "price ~ poly(center(area), 2):scale(log(age))",
    "price ~ scale(poly(age, 2))",
    "price ~ bs(age, df=6) + bs(area, df=7, include_intercept=True, degree=2)",
    "price ~ bs(area, knots=[1050, 1100], lower_bound=1000, upper_bound=2000)",
    "price ~ bs(area, df=5, lower_bound=1020, upper_bound=1150, extrapolation='clip')",
    "price ~ cr(age, df=5) + cs(area, df=4)",
    "price ~ cs(age, df=4, constraints='center') + cc(area, df=3, constraints='center')",
    "price ~ cr(rooms, df=3, constraints='center', lower_bound=2, upper_bound=7)",
    "scale(log(price)) ~ C(year) * poly(area, 2) - 1",
    "price ~ C(city) + C(rooms > 4):age + new + C(new)",
    "price ~ kind * age",
    "price ~ C(city, Treatment('Rome')) + C(year, Treatment(2001))",
    "price ~ C(city, Sum) + C(year, Helmert) + C(rooms, Diff) + C(year, contr.poly):age",
    "price ~ C(city, levels=['Rome', 'Oslo', 'Bern', 'Bonn'])",
    "log(price) ~ . - area",
    "price ~ I(area / 10**3) + I((age > 30) & (city == 'Rome')) + maximum(age, 40)",
    "price ~ `the area` + Q('the area'):age + log(`the area` + 10)",
    "price ~ 3:age + rooms % 2 + exp(-age)",
]


@pytest.mark.parametrize("formula", STATEFUL)
def test_pieces_are_encoded_as_the_whole_table_is(frame, path, formula):
    context = {"__formulaic_variables_available__": list(frame), "maximum": np.maximum}
    if "%" in formula:
        formula = formula.replace("rooms % 2", "I(rooms % 2)")
    texts = frame.astype({"city": object})  # formulaic 1.1 does not know the newer type
    theirs = formulaic.Formula(formula, _context=context).get_model_matrix(texts, context=context)
    data = Table(path, formula=formula)
    X, y = data.raw("train")
    expected = theirs.rhs.drop(columns="Intercept", errors="ignore")
    assert data.feature_names == list(expected)
    assert data.intercept == ("Intercept" in theirs.rhs)
    np.testing.assert_allclose(X, expected.to_numpy(float), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(y, theirs.lhs.to_numpy(float), rtol=1e-9)


def test_only_training_rows_are_learned_from(frame, path):
    data = Table(path, formula="price ~ scale(age) + bs(area, df=4, extrapolation='clip')", val_fraction=0.4)
    X, _ = data.raw("train")
    np.testing.assert_allclose(X[:, 0].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(X[:, 0].std(), 1, rtol=1e-12)
    assert abs(data.raw("val")[0][:, 0].mean()) > 1e-6


def test_rows_of_weight_zero_and_missing_ones_are_not_learned_from(tmp_path, frame):
    frame = frame.assign(weight=np.arange(ROWS) % 3)
    frame.loc[::7, "age"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = Table(str(tmp_path / "t.csv"), formula="price ~ scale(age)", weights="weight", missing="drop")
    ages = frame.age[(frame.weight > 0) & frame.age.notna()]
    np.testing.assert_allclose(data.raw("train")[0][:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-12)
    filled = Table(str(tmp_path / "t.csv"), formula="price ~ log(age)", weights="weight", missing="mean")
    filled.setup("fit")
    ages = frame.age[frame.weight > 0]
    np.testing.assert_allclose(filled.raw("train")[0][:, 0], np.log(ages.fillna(ages.mean())), rtol=1e-12)


def test_levels_that_are_codes_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("zip,y\n01234,1\n56789,2\n01234,3\n", encoding="utf-8")
    assert Table(str(tmp_path / "t.csv"), formula="y ~ C(zip)").feature_names == ["C(zip)[T.56789]"]


def test_levels_that_were_not_seen(tmp_path, path, frame):
    known = Table(path, formula="price ~ C(city, Treatment('Rome'))")
    state = known.state_dict()["columns"]
    frame.assign(city="Lima").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(InputError, match=r"column .C\(city, .*, row 1: 'Lima' is not among the levels"):
        Table(str(tmp_path / "new.csv"), formula=state).raw("predict")
    unknown, *_ = Table(str(tmp_path / "new.csv"), formula=state, unknown="ignore").raw("predict")
    assert unknown.abs().max() == 0  # as the reference level


HOSTILE = {
    "price ~ __import__('os')": "__import__: is no function of a formula",
    "price ~ I(().__class__)": "a formula holds columns, numbers, arithmetic and functions",
    "price ~ {age.values}": "'age.values': a formula holds columns",
    "price ~ age.values": "has no column 'age.values'",
    "price ~ np.log(age)": "np.log: write log",
    "price ~ np.load('x')": "np.load: is no function of a formula",
    "price ~ logg(age)": "did you mean 'log'",
    "price ~ I(age if age else 1)": "a formula holds columns",
    "price ~ (lambda x: x)(age)": "cannot be read",
    "price ~ {[x for x in age]}": "a formula holds columns",
    "price ~ {age := 3}": "cannot be read",
    "price ~ I(f'{age}')": "a formula holds columns",
    "price ~ lag(age)": "lag: takes its values from the row before",
    "price ~ open('x')": "open: is no function of a formula",
    "price ~ contr.__class__(age)": "is no function of a formula",
    "price ~ center(age, _state={})": "cannot be called so",
    "price ~ (rooms + age + area)**1000": "would have over 10,000 terms",
    "price ~ " + "*".join(f"a{i}" for i in range(40)): "would have over 10,000 terms",
    "price ~ I(9**9**9)": "write the number",
    "price ~ {I(9)**I(9)**I(99)}": "write the number",
    "price ~ I(age + log(9)**9**9**9)": "write the number",
    "price ~ I('a' * 10**9)": "is arithmetic on text or lists",
    "price ~ I([1] * 10**9)": "is arithmetic on text or lists",
    "price ~ poly(age, 100000)": "degree 100000: must be a whole number up to 100",
    "price ~ bs(age, df=100000)": "df 100000: must be",
    "price ~ C(age):C(area)": "columns; at most 10,000 are taken",
    "price ~ poly(rooms, 12)": "the training rows have too few distinct values",
    "price ~ poly(city, 2)": "needs numbers",
    "price ~ scale(age, scale=rooms)": "only the first argument may be a column",
    "price ~ age | area": "must be 'target ~ columns'",
    "price + age ~ area": "must be 'target ~ columns'",
    "city ~ age": "must be one column of numbers",
    "price ~ 1": "at least one column",
    "~ age": "must be 'target ~ columns'",
    "": "must be 'target ~ columns'",
    "price ~ age + (": "cannot be read",
    "price ~ nothing": "has no column 'nothing' (--data.formula)",
    "price ~ C(city, Treatment('Paris'))": "'Paris'",
    "price ~ scale(I(age * 0))": "has one value only in the training rows",
    "price ~ bs(age, df=2)": "`df` must be greater than 3",
    "price ~ " + "x" * MAX_LENGTH: "is longer than 20,000 characters",
}


@pytest.mark.parametrize("formula", HOSTILE, ids=lambda formula: formula[:40])
def test_what_is_refused(path, formula):
    with pytest.raises(InputError) as raised:
        Table(path, formula=formula)
    said = str(raised.value)
    assert HOSTILE[formula] in said
    assert len(said) < 700
    assert "\n" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize("formula", ["price ~ log(age - 50)", "price ~ exp(area)", "price ~ I(area**100)"])
def test_values_that_are_not_finite(path, formula):
    with pytest.raises(InputError, match=r"column .*, row \d+: is (nan|inf|-inf), not a finite number"):
        Table(path, formula=formula).raw("train")


def test_formulaic_is_needed_for_formulas_alone(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "formulaic", None)
    with pytest.raises(InputError, match=r"formulaic: python -m pip install \"linreg_pl\[formula\]\""):
        Table(path, formula="price ~ age + 1.5")
