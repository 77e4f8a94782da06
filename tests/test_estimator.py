"""`LinearRegressor` as scikit-learn's users use it."""

import gc
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.linear_model import ElasticNet, LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data
from statsmodels.stats.stattools import durbin_watson

from linreg_pl import LinearRegressor
from linreg_pl.errors import InputError
from tests import nist
from tests.support.commands import REPOSITORY

SGD = ("fused", "scratch", "concise")
ROWS, COLUMNS = 200, 4
REPEATED = "check_sample_weight_equivalence_on_dense_data"
NOT_THE_SAME_STEPS = {REPEATED: "SGD takes other steps on rows that are repeated; SGDRegressor does too"}

pytestmark = pytest.mark.filterwarnings("ignore:SGD did not arrive")  # where steps are too few on purpose


def an_sgd(method="fused", **arguments):
    return LinearRegressor(method, **({"random_state": 0} | arguments))


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def X(generator):  # noqa: N802
    return generator.normal(size=(ROWS, COLUMNS))


@pytest.fixture
def y(X, generator):
    return X @ np.arange(1.0, COLUMNS + 1) - 2.5 + generator.normal(size=ROWS)


@pytest.fixture
def weight(generator):
    return generator.uniform(0.5, 3.0, size=ROWS)


def errors(model):
    return np.array([model.intercept_standard_error_, *model.standard_error_])


def coefficients(model):
    return np.array([model.intercept_, *model.coef_])


def python(code, cwd, **environment):
    """Run ``code`` as a user does, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_all_checks_of_scikit_learn_in_silence(tmp_path):
    code = (
        "from linreg_pl import LinearRegressor\n"
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "print(len(check_estimator(LinearRegressor())))"
    )
    status, out, said = python(code, tmp_path, SCIPY_ARRAY_API="1")  # else one check is skipped
    assert (status, said) == (0, "")
    assert int(out) >= 50
    assert not list(tmp_path.iterdir())


@parametrize_with_checks([LinearRegressor("fused")], expected_failed_checks=lambda _: NOT_THE_SAME_STEPS)
def test_checks_of_scikit_learn(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # else one check is skipped
    check(estimator)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_numbers_are_those_of_statsmodels(X, y, weight, fit_intercept):
    design = sm.add_constant(X) if fit_intercept else X
    for sample_weight in (None, weight, 1000 * weight):
        expected = sm.WLS(y, design, 1.0 if sample_weight is None else sample_weight).fit()
        model = LinearRegressor(fit_intercept=fit_intercept).fit(X, y, sample_weight)
        np.testing.assert_allclose(coefficients(model)[not fit_intercept :], expected.params, rtol=1e-11)
        np.testing.assert_allclose(errors(model)[not fit_intercept :], expected.bse, rtol=1e-11)
        if not fit_intercept:
            assert (model.intercept_, model.intercept_standard_error_) == (0.0, 0.0)
        reference = LinearRegression(fit_intercept=fit_intercept).fit(X, y, sample_weight)
        assert model.score(X, y, sample_weight) == pytest.approx(reference.score(X, y, sample_weight), rel=1e-12)


def test_rows_of_weight_zero_are_no_rows(X, y, weight):
    weight[::3] = 0
    model, expected = (
        LinearRegressor().fit(X, y, weight),
        LinearRegressor().fit(*(a[weight > 0] for a in (X, y, weight))),
    )
    np.testing.assert_array_equal(coefficients(model), coefficients(expected))
    np.testing.assert_array_equal(errors(model), errors(expected))


@pytest.mark.parametrize("name", ["Longley", "Pontius", "Wampler1"])
def test_no_digits_are_lost(name):
    data = nist.load(name)
    model = LinearRegressor().fit(data.X, data.columns["y"])
    np.testing.assert_allclose(coefficients(model), data.estimates, rtol=1e-8)
    if data.residual_std:
        np.testing.assert_allclose(errors(model), data.standard_deviations, rtol=1e-8)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ridge_is_that_of_scikit_learn(X, y, weight, fit_intercept):
    for sample_weight in (None, weight):
        expected = Ridge(30.0, fit_intercept=fit_intercept, solver="svd").fit(X, y, sample_weight)
        model = LinearRegressor(ridge=30.0, fit_intercept=fit_intercept).fit(X, y, sample_weight)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-11)
        assert model.intercept_ == pytest.approx(expected.intercept_, rel=1e-11)
        assert np.isnan(model.standard_error_).all()
        for method in SGD:  # all rows in each step: no noise
            sgd = an_sgd(method, ridge=30.0, fit_intercept=fit_intercept, batch_size=ROWS, max_epochs=300)
            np.testing.assert_allclose(sgd.fit(X, y, sample_weight).coef_, expected.coef_, rtol=1e-4)


DEFICIENT = {
    "constant column": lambda X: np.column_stack([X, np.full(len(X), 7.0)]),
    "zero column": lambda X: np.column_stack([X, np.zeros(len(X))]),
    "dependent columns": lambda X: np.column_stack([X, X[:, 0] - 2 * X[:, 1], X[:, 2] + 5]),
    "more columns than rows": lambda X: X[:3],
    "one row": lambda X: X[:1],
}


@pytest.mark.parametrize("case", DEFICIENT)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_of_many_optima_that_of_scikit_learn(X, y, case, fit_intercept):
    X = DEFICIENT[case](X)
    y = y[: len(X)]
    expected = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    model = LinearRegressor(fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-9, atol=1e-10)
    assert model.intercept_ == pytest.approx(expected.intercept_, rel=1e-9, abs=1e-10)
    if fit_intercept or not case.startswith("constant"):
        assert np.isnan(model.standard_error_).all()
    an_sgd(max_epochs=2, fit_intercept=fit_intercept).fit(X, y)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
@pytest.mark.parametrize("weighted", ["none", "all", "some"])
@pytest.mark.parametrize("arguments", [{}, {"ridge": 20.0}, {"fit_intercept": False}])
def test_pieces_make_the_same_as_all_at_once(X, y, weight, order, weighted, arguments):
    weight[150:] = 0.0 if weighted == "all" else 1.0
    whole = LinearRegressor(**arguments).fit(X, y, None if weighted == "none" else weight)
    cuts = [2, 150, 180]  # fewer rows than columns in the first
    model = LinearRegressor(**arguments)
    pieces = list(zip(*(np.split(a, cuts) for a in (X, y, weight)), strict=True))
    for i in order:
        some = weighted == "none" or (weighted == "some" and i >= 2)
        if weighted != "all" or i < 2:
            model.partial_fit(*pieces[i][: 2 if some else 3])
    np.testing.assert_allclose(coefficients(model), coefficients(whole), rtol=1e-11)
    np.testing.assert_allclose(errors(model), errors(whole), rtol=1e-11)


def test_fit_starts_anew_and_partial_fit_goes_on(X, y):
    model = LinearRegressor().fit(X[:50], y[:50])
    model.partial_fit(X[50:], y[50:])
    np.testing.assert_allclose(coefficients(model), coefficients(LinearRegressor().fit(X, y)), rtol=1e-11)
    before = coefficients(model)
    with pytest.raises(ValueError, match="X has 3 features, but LinearRegressor is expecting 4"):
        model.partial_fit(X[:, :3], y)
    with pytest.raises(InputError, match="must be zero or a positive number"):
        model.partial_fit(X, y, np.full(ROWS, -1.0))
    np.testing.assert_array_equal(coefficients(model), before)  # what failed changed nothing
    assert len(model.fit(X[:, :3], y).coef_) == 3


def by_hand(theta, X, y, lr, passes, batch_size, orders):
    """Half squared error and its gradient in NumPy."""
    Z = np.column_stack([np.ones(len(X)), X])
    for order in orders[:passes]:
        for start in range(0, len(y), batch_size):
            rows = order[start : start + batch_size]
            theta = theta - lr * Z[rows].T @ (Z[rows] @ theta - y[rows]) / len(rows)
    return theta


@pytest.mark.parametrize("method", SGD)
def test_sgd_takes_the_steps_of_the_book_on_and_on(X, y, method):
    lr, whole = 0.1, [np.arange(ROWS)] * 5  # all rows in each step, so that their order is nothing
    model = an_sgd(method, lr=lr / 2 if method == "concise" else lr, batch_size=ROWS, max_epochs=3).fit(X, y)
    np.testing.assert_allclose(coefficients(model), by_hand(np.zeros(5), X, y, lr, 3, ROWS, whole), rtol=1e-5)
    model.partial_fit(X, y).partial_fit(X[:50], y[:50])
    expected = by_hand(np.zeros(5), X, y, lr, 4, ROWS, whole)
    expected = by_hand(expected, X[:50], y[:50], lr, 1, ROWS, [np.arange(50)])
    np.testing.assert_allclose(coefficients(model), expected, rtol=1e-5)
    first = an_sgd(method, max_epochs=1).fit(X, y)
    np.testing.assert_array_equal(coefficients(an_sgd(method).partial_fit(X, y)), coefficients(first))


def test_sgd_that_did_not_arrive_warns(X, y):
    message = r"SGD did not arrive: r2 is (0\.\d+), at the optimum (0\.\d+); take more epochs, or scale the columns"
    scales = np.array([1.0, 1.0, 1.0, 0.01])
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        model = an_sgd(max_epochs=5).fit(X * scales, y)
    said = re.fullmatch(message, str(caught[0].message))
    optimum = LinearRegression().fit(X, y)
    assert [float(number) for number in said.groups()] == pytest.approx(
        [model.score(X * scales, y), optimum.score(X, y)], abs=1e-4
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        an_sgd().fit(X, y)
        an_sgd(max_epochs=1).partial_fit(X * scales, y)


def test_sgd_ways_agree_and_come_near_the_optimum(X, y):
    optimum = LinearRegressor().fit(X, y)
    found = [an_sgd(method).fit(X, y) for method in SGD]
    for model in found:
        np.testing.assert_allclose(coefficients(model), coefficients(found[0]), rtol=1e-4)
        np.testing.assert_allclose(errors(model), errors(optimum), rtol=1e-12)
        assert model.score(X, y) > optimum.score(X, y) - 1e-3
    other = an_sgd(random_state=1).fit(X, y)
    assert (coefficients(other) != coefficients(found[0])).any()
    again = an_sgd(random_state=np.random.RandomState(0)).fit(X, y)
    np.testing.assert_array_equal(coefficients(again), coefficients(found[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "newton"}, "method 'newton': choose one of exact, fused, scratch, concise"),
        ({"ridge": -1.0}, "ridge -1.0: must be zero or a positive number"),
        ({"method": "fused", "max_epochs": 0}, "max_epochs 0: must be a positive number"),
        ({"method": "fused", "batch_size": 0}, "batch_size 0: must be a positive number"),
        ({"method": "fused", "lr": 0.0}, "lr 0.0: must be a positive number"),
        ({"method": "fused", "lr": 50}, r"lr 50: diverges on these data with batch_size 10, .* set lr 1\.\d+ or less$"),
    ],
)
def test_errors_speak_of_arguments(X, y, arguments, message):
    with pytest.raises(InputError, match=f"^{message}"):
        an_sgd(**({"method": "exact"} | arguments)).fit(X, y)


def test_scale_of_a_column_is_advised_on_in_scikit_learns_words(X, y):
    with pytest.raises(InputError, match=r"or a StandardScaler before it, since column 'area' outweighs the rest$"):
        an_sgd(lr=1.0).fit(pd.DataFrame(X * [1, 1, 1, 1000], columns=["a", "b", "c", "area"]), y)


def test_pipelines_searches_and_copies(X, y, tmp_path):
    expected = cross_val_score(make_pipeline(StandardScaler(), LinearRegression()), X, y)
    model = make_pipeline(StandardScaler(), LinearRegressor())
    np.testing.assert_allclose(cross_val_score(model, X, y), expected, rtol=1e-12)
    search = GridSearchCV(
        LinearRegressor(random_state=0), {"ridge": [0.0, 5.0, 500.0], "method": ["exact", "fused"]}, n_jobs=2
    )
    best = search.fit(X, y).best_estimator_
    reference = GridSearchCV(Ridge(solver="svd"), {"alpha": [1e-12, 5.0, 500.0]}).fit(X, y)
    exact = search.cv_results_["param_method"] == "exact"
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"][exact], reference.cv_results_["mean_test_score"], rtol=1e-9
    )
    assert vars(clone(best)) == best.get_params()
    joblib.dump(best, tmp_path / "model")
    for copy in (pickle.loads(pickle.dumps(best)), joblib.load(tmp_path / "model")):
        np.testing.assert_array_equal(copy.predict(X), best.predict(X))
        np.testing.assert_array_equal(copy.partial_fit(X, y).coef_, clone(best).fit(X, y).partial_fit(X, y).coef_)
    few, many = (LinearRegressor().fit(np.tile(X, (n, 1)), np.tile(y, n)) for n in (1, 20))
    assert len(pickle.dumps(many)) - 20 < len(pickle.dumps(few)) < 5000  # no model, no Trainer, no rows


@pytest.mark.filterwarnings("ignore")  # which to show is a matter of the whole process
def test_threads_do_not_disturb_each_other(X, y):
    methods = ["exact", "scratch"] * 4
    fit = delayed(lambda method: an_sgd(method, max_epochs=2).fit(X, y).coef_)
    for method, found in zip(methods, Parallel(2, backend="threading")(map(fit, methods)), strict=True):
        np.testing.assert_array_equal(found, an_sgd(method, max_epochs=2).fit(X, y).coef_)


def test_data_frames(X, y):
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = LinearRegressor().fit(frame, pd.Series(y))
    assert list(model.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(model.coef_, LinearRegressor().fit(X, y).coef_)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        model.predict(frame[list("dcba")])
    with pytest.warns(DataConversionWarning):
        assert LinearRegressor().fit(X, y.reshape(-1, 1)).coef_.shape == (COLUMNS,)
    with pytest.raises(ValueError, match="y should be a 1d array"):
        LinearRegressor().fit(X, np.column_stack([y, y]))
    with pytest.raises(NotFittedError):
        LinearRegressor().predict(X)
    frame["town"] = np.resize(["Ulm", "Bonn", "Kiel"], ROWS)  # one column for each level: dependent with the intercept
    encoder = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    one_hot = make_pipeline(encoder, LinearRegressor()).fit(frame, y)
    np.testing.assert_allclose(
        one_hot.predict(frame), make_pipeline(encoder, LinearRegression()).fit(frame, y).predict(frame), rtol=1e-10
    )


def test_polars(X, y):
    import polars

    frame = polars.DataFrame({name: X[:, i] for i, name in enumerate("abcd")})
    model = LinearRegressor().fit(frame, polars.Series(y))
    assert list(model.feature_names_in_) == list("abcd")
    np.testing.assert_allclose(model.predict(frame), LinearRegressor().fit(X, y).predict(X), rtol=1e-12)


@pytest.mark.parametrize("method", ["exact", "fused"])
def test_arrays_of_any_layout(X, y, method):
    read_only = X.copy()
    read_only.flags.writeable = False
    model = an_sgd(method, max_epochs=2)
    expected = coefficients(model.fit(X, y))
    for other in (read_only, np.asfortranarray(X), X.astype(">f8"), np.repeat(X, 2, axis=1)[:, ::2], X.tolist()):
        np.testing.assert_array_equal(coefficients(model.fit(other, y)), expected)
    turned = model.fit(X[:, ::-1], y).coef_
    np.testing.assert_allclose(turned[::-1], expected[1:], rtol=1e-5)
    many = np.tile(X, (700, 1)), np.tile(y, 700)  # several blocks
    np.testing.assert_allclose(LinearRegressor().fit(*many).coef_, LinearRegressor().fit(X, y).coef_, rtol=1e-10)


def test_process_is_left_as_it_was(X, y, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, value in {"NTASKS": 4, "JOB_NAME": "fit", "PROCID": 0, "LOCALID": 0, "NODELIST": "a"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))  # a job's other tasks are none of an estimator's business

    def state():
        return (
            *(dict(os.environ), list(warnings.filters), torch.is_grad_enabled(), torch.get_num_threads()),
            *(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        )

    with torch.no_grad():
        before = state()
        LinearRegressor().fit(X * 1e9, np.round(y * 1e9))
        for method in SGD:
            an_sgd(method, max_epochs=2).fit(np.round(X * 1e9), y)  # not to be had in float32
        assert state() == before
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_one_and_leaves_the_next_to_others(X, y):
    handler = signal.getsignal(signal.SIGINT)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        an_sgd("scratch", max_epochs=10**6).fit(X, y)
    assert time.monotonic() - start < 20
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("method", ["exact", *SGD])
def test_rows_are_freed(X, y, method, monkeypatch):
    copies = []

    def watched(*arguments, **options):
        result = validate_data(*arguments, **options)
        copies.append(weakref.ref(result[0]))
        return result

    monkeypatch.setattr("linreg_pl.estimator.validate_data", watched)
    model = an_sgd(method, max_epochs=2)
    gc.collect()
    gc.disable()  # it would free them too, but some time later
    try:
        model.fit(X.tolist(), y)
        assert copies.pop()() is None
        assert not [each for each in gc.get_objects() if type(each) is torch.Tensor and each.shape == X.shape]
    finally:
        gc.enable()


def test_without_scikit_learn(tmp_path):
    code = "import sys; sys.modules['sklearn'] = None; import linreg_pl; linreg_pl.LinearRegressor"
    status, _, said = python(code, tmp_path)
    assert status == 1
    assert said.splitlines()[-1] == (
        'ImportError: LinearRegressor needs scikit-learn 1.6 or newer: python -m pip install "linreg_pl[sklearn]"'
    )


def test_other_names_are_still_unknown():
    with pytest.raises(ImportError, match="cannot import name 'Regressor'"):
        exec("from linreg_pl import Regressor")
    json.dumps(LinearRegressor().get_params())  # plain values
    assert Path(sys.modules["linreg_pl"].__file__).is_relative_to(REPOSITORY)


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize("method", ["exact", "fused"])
@pytest.mark.parametrize("kind", ["classical", "HC0", "HC1", "HC2", "HC3"])
def test_covariance_is_that_of_statsmodels(X, y, method, kind):
    weight = np.random.default_rng(0).uniform(0.5, 2, size=len(y))
    A = sm.add_constant(X, prepend=False)
    theirs = sm.WLS(y, A, weights=weight).fit(cov_type="nonrobust" if kind == "classical" else kind)
    ours = LinearRegressor(method, covariance=kind).fit(X, y, weight)
    np.testing.assert_allclose(ours.covariance_, theirs.cov_params(), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose([*ours.standard_error_, ours.intercept_standard_error_], theirs.bse, rtol=1e-8)


def test_covariance_that_cannot_be_had_is_refused(X, y):
    with pytest.raises(InputError, match=r"covariance 'HC9': choose one of classical, HC0, HC1, HC2, HC3$"):
        LinearRegressor(covariance="HC9").fit(X, y)
    with pytest.raises(InputError, match="needs all rows at once; use fit"):
        LinearRegressor(covariance="HC3").partial_fit(X, y)
    with pytest.raises(InputError, match="diagnostics: needs all rows at once; use fit"):
        LinearRegressor(diagnostics=True).partial_fit(X, y)
    assert LinearRegressor(ridge=1.0, diagnostics=True).fit(X, y).diagnostics_ is None
    with pytest.raises(InputError, match="coefficients have no tests"):
        LinearRegressor(ridge=1.0).fit(X, y).wald("x0 = 0")
    with pytest.raises(InputError, match="there is no coefficient 'x9'"):
        LinearRegressor().fit(X, y).wald("x9 = 0")


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize("method", ["exact", "fused"])
def test_wald_and_diagnostics_are_those_of_statsmodels(X, y, method):
    weight = np.random.default_rng(0).uniform(0.5, 2, size=len(y)) * (np.arange(len(y)) % 7 != 2)
    used = np.flatnonzero(weight)
    root = np.sqrt(weight[used])
    A = pd.DataFrame(sm.add_constant(X[used], prepend=False) * root[:, None])
    A.columns = [*(f"x{i}" for i in range(X.shape[1])), "bias"]
    theirs = sm.OLS(y[used] * root, A).fit(cov_type="HC1", use_t=True)
    ours = LinearRegressor(method, covariance="HC1", diagnostics=True).fit(X, y, weight)
    mine, expected = ours.wald("x0 = x1, bias = 0.5"), theirs.f_test("x0 = x1, bias = 0.5")
    np.testing.assert_allclose([mine.f, mine.p], [np.squeeze(expected.fvalue), expected.pvalue], rtol=1e-8)
    cook = theirs.get_influence().cooks_distance[0]
    worst = np.argsort(-cook)[:20]
    assert [row["row"] for row in ours.diagnostics_["influential"]] == used[worst].tolist()
    np.testing.assert_allclose([row["cook"] for row in ours.diagnostics_["influential"]], cook[worst], rtol=1e-8)
    np.testing.assert_allclose(ours.diagnostics_["durbin_watson"], durbin_watson(theirs.resid), rtol=1e-8)


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_penalty_as_scikit_learn(X, y, l1_ratio):
    ours = LinearRegressor(penalty=0.1, l1_ratio=l1_ratio).fit(X, y)
    theirs = ElasticNet(alpha=0.1, l1_ratio=l1_ratio, tol=1e-14, max_iter=10**6).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)
    assert (ours.penalty_, ours.l1_ratio_, ours.cv_) == (0.1, l1_ratio, None)
    assert np.isnan(ours.standard_error_).all()
    chosen = LinearRegressor(penalty="cv", l1_ratio=[l1_ratio, 0.9], folds=5, random_state=1).fit(X, y)
    assert chosen.penalty_ in chosen.cv_["penalty"]
    assert chosen.l1_ratio_ in (l1_ratio, 0.9)
    penalties, weights = chosen.path_
    np.testing.assert_array_equal(weights[list(penalties).index(chosen.penalty_)], chosen.coef_)
    again = LinearRegressor(penalty="cv", l1_ratio=np.array([l1_ratio, 0.9]), folds=5, random_state=1).fit(X, y)
    np.testing.assert_array_equal(again.coef_, chosen.coef_)
    np.testing.assert_array_equal(
        again.set_params(penalty=np.int64(0), l1_ratio=1.0).fit(X, y).coef_.round(8),
        LinearRegression().fit(X, y).coef_.round(8),
    )
    assert not hasattr(again.set_params(penalty=None).fit(X, y), "penalty_")


def test_penalty_that_cannot_be_had_is_refused(X, y):
    for arguments, sentence in {
        ("penalty", "best"): "penalty best: must be a number, or cv",
        ("penalty", -1.0): "penalty -1.0",
        ("l1_ratio", 2.0): "l1_ratio 2.0: must lie between",
        ("method", "fused"): 'penalty: is for method "exact"',
        ("folds", 1): "folds 1: cross-validation needs two folds",
        ("folds", 2.5): "folds 2.5: cross-validation needs two folds",
        ("l1_ratio", None): "l1_ratio None: must be a number",
    }.items():
        with pytest.raises(InputError, match=re.escape(sentence)):
            LinearRegressor(**({"penalty": "cv"} | dict([arguments]))).fit(X, y)
    with pytest.raises(InputError, match="penalty 'cv': needs all rows at once; use fit"):
        LinearRegressor(penalty="cv").partial_fit(X, y)
