"""The exact optimum from the command line: certified values, other people's least squares, memory and processes."""

import re
import sys

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from pyarrow import parquet
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error, r2_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from linreg_pl.data.synthetic import Synthetic
from linreg_pl.data.table import Table
from tests.nist import NAMES, load
from tests.support.commands import CONFIGS, in_process, in_subprocess, on_processes

EXACT = ("fit", "--config", CONFIGS / "exact.yaml")
ON_A_TABLE = (*EXACT, "--data", "Table", "--data.target", "y", "--data.standardize", "false")
DIGITS = {  # what Householder QR gives in float64: of the worst coefficient, and of the worst standard error
    "Longley": 12.5,
    "Norris": 11.5,
    "Pontius": 11,
    "NoInt1": 13.5,
    "NoInt2": 13.5,
    "Filip": 7,
    "Wampler1": 9,
    "Wampler2": 12,
    "Wampler3": 9,
    "Wampler4": 7.5,
    "Wampler5": 5.8,
}


def digits(values, certified):
    """Correct digits of the worst value: of the value itself where it should be zero; NIST certifies 15."""
    certified = np.asarray(certified)
    errors = np.abs(np.asarray(values) - certified) / np.where(certified == 0, 1.0, np.abs(certified))
    return -np.log10(max(errors.max(), 1e-15))


def write_csv(path, columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(f"{value:.17g}" for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def column(outcome, key):
    """One number of every coefficient, the bias last."""
    return [row[key] for row in outcome.report["coefficients"]]


def columns_and_target(data, part="train"):
    X, y = data.raw(part)
    return X.double().numpy(), y.double().numpy()[:, 0]


def lstsq(X, y):
    """Weights, then the bias."""
    return np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y)[0]


def files_of(run):
    return "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt"


@pytest.mark.parametrize("name", NAMES)
def test_certified_values_of_nist(linreg, tmp_path, name):
    nist = load(name)
    write_csv(tmp_path / "t.csv", nist.columns)
    bias_first = slice(None) if not nist.intercept else [-1, *range(len(nist.features))]
    fit = linreg(*ON_A_TABLE, "--data.path", "t.csv", "--model.bias", str(nist.intercept).lower()).succeeded()
    assert digits(np.array(column(fit, "estimate"))[bias_first], nist.estimates) >= DIGITS[name]
    assert digits(np.array(column(fit, "standard_error"))[bias_first], nist.standard_deviations) >= DIGITS[name]
    assert digits(fit.report["optimum"]["residual_std"], nist.residual_std) >= DIGITS[name]
    assert digits(fit.report["optimum"]["r2"], nist.r2) >= DIGITS[name]


@pytest.fixture(scope="module")
def exact_fit(tmp_path_factory):
    """``configs/exact.yaml`` as it stands: look, but do not touch."""
    return in_process(tmp_path_factory.mktemp("exact"), *EXACT).succeeded()


@pytest.fixture(scope="module")
def statsmodels_fit():
    """The same in statsmodels, the bias last."""
    X, y = columns_and_target(Synthetic())
    return sm.OLS(y, np.column_stack([X, np.ones(len(X))])).fit()


def test_report_of_the_coefficients_is_that_of_statsmodels(exact_fit, statsmodels_fit):
    expected = {
        "estimate": statsmodels_fit.params,
        "optimum": statsmodels_fit.params,
        "standard_error": statsmodels_fit.bse,
        "ci_low": statsmodels_fit.conf_int()[:, 0],
        "ci_high": statsmodels_fit.conf_int()[:, 1],
        "t": statsmodels_fit.tvalues,
        "p": statsmodels_fit.pvalues,
    }
    for key, values in expected.items():
        np.testing.assert_allclose(column(exact_fit, key), values, rtol=1e-9, err_msg=key)
    assert column(exact_fit, "name") == ["x0", "x1", "bias"]
    assert column(exact_fit, "distance") == [0.0, 0.0, 0.0]
    assert exact_fit.report["confidence_level"] == 0.95


def test_report_of_the_fit_is_that_of_statsmodels(exact_fit, statsmodels_fit):
    expected = {
        "mse": statsmodels_fit.ssr / 1000,
        "residual_std": statsmodels_fit.mse_resid**0.5,
        "dof": 997,
        "r2": statsmodels_fit.rsquared,
        "adjusted_r2": statsmodels_fit.rsquared_adj,
        "rank": 3,
        "condition_number": statsmodels_fit.condition_number,
        "f": statsmodels_fit.fvalue,
        "f_p": statsmodels_fit.f_pvalue,
        "aic": statsmodels_fit.aic,
        "bic": statsmodels_fit.bic,
    }
    assert exact_fit.report["optimum"] == pytest.approx(expected, rel=1e-9)
    assert exact_fit.report["noise_floor"] == pytest.approx(statsmodels_fit.mse_resid, rel=1e-9)


def test_report_says_that_it_was_one_pass(exact_fit):
    report = exact_fit.report
    facts = {"model": "exact", "steps": 1, "epochs": 1, "world_size": 1, "num_train": 1000, "num_features": 2}
    assert {key: report[key] for key in facts} == facts
    assert not {"lr", "batch_size", "gradients", "note"} & report.keys()
    assert exact_fit.stdout.count("epoch") == 1


@pytest.mark.parametrize("part", ["train", "val"])
def test_scores_are_those_of_scikit_learn(exact_fit, statsmodels_fit, part):
    X, y = columns_and_target(Synthetic(), part)
    predicted = X @ statsmodels_fit.params[:2] + statsmodels_fit.params[2]
    mse = mean_squared_error(y, predicted)
    expected = {"loss": mse, "mse": mse, "rmse": mse**0.5, "r2": r2_score(y, predicted)}
    assert exact_fit.report[part] == pytest.approx(expected, rel=1e-9)


def test_console_shows_errors_and_intervals(exact_fit):
    lines = {line.split()[0]: line for line in exact_fit.stdout.splitlines() if line.strip()}
    for row in exact_fit.report["coefficients"]:
        wanted = [f"{row['estimate']:.6g}", f"{row['standard_error']:.3g}", f"{row['ci_low']:.6g}"]
        assert lines[row["name"]].split()[1:4] == wanted
    assert f"adjusted r2 {exact_fit.report['optimum']['adjusted_r2']:.6g}, F " in exact_fit.stdout
    assert "least squares by Householder QR of [1 X y], 2 features" in exact_fit.stdout
    assert "SGD error" not in exact_fit.stdout


def test_tensorboard_has_the_scores(exact_fit):
    events = EventAccumulator(str(exact_fit.run))
    events.Reload()
    for tag in ("train/mse", "train/r2", "val/mse", "val/r2"):
        part, name = tag.split("/")
        (event,) = events.Scalars(tag)
        assert (event.step, event.value) == (1, pytest.approx(exact_fit.report[part][name], rel=1e-6))


def test_checkpoint_holds_coefficients_and_factor(exact_fit):
    checkpoint = exact_fit.last
    assert checkpoint["coefficients"] == exact_fit.coefficients
    X, y = columns_and_target(Synthetic())
    A = np.column_stack([np.ones(len(X)), X, y])
    np.testing.assert_allclose(checkpoint["factor"].T @ checkpoint["factor"], A.T @ A, rtol=1e-12)


def test_evaluation_from_the_run(linreg, tmp_path):
    fit = linreg(*EXACT).succeeded()
    before = fit.report
    for command in ("validate", "test", "predict"):
        linreg(command, *files_of(fit.run)).succeeded()
    assert fit.report["val"] == pytest.approx(before["val"], rel=1e-12)
    X, y = columns_and_target(Synthetic(), "test")
    predicted = np.column_stack([X, np.ones(len(X))]) @ column(fit, "estimate")
    assert fit.report["test"]["mse"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-12)
    table = parquet.read_table(fit.run / "predictions.parquet")
    np.testing.assert_allclose(table["prediction"], predicted, rtol=1e-12)


def test_runs_own_config_gives_the_same_run(exact_fit, linreg):
    again = linreg("fit", "--config", exact_fit.run / "config.yaml").succeeded()
    assert again.coefficients == exact_fit.coefficients


def test_confidence_level_can_be_chosen(linreg, statsmodels_fit):
    fit = linreg(*EXACT, "--confidence_level", 0.8).succeeded()
    np.testing.assert_allclose(column(fit, "ci_low"), statsmodels_fit.conf_int(0.2)[:, 0], rtol=1e-9)
    np.testing.assert_allclose(column(fit, "ci_high"), statsmodels_fit.conf_int(0.2)[:, 1], rtol=1e-9)
    assert "0.8 from" in fit.stdout
    assert fit.report["confidence_level"] == 0.8


def test_without_bias(linreg):
    fit = linreg(*EXACT, "--model.bias", "false").succeeded()
    X, y = columns_and_target(Synthetic())
    expected = sm.OLS(y, X).fit()
    np.testing.assert_allclose(column(fit, "estimate"), expected.params, rtol=1e-9)
    np.testing.assert_allclose(column(fit, "standard_error"), expected.bse, rtol=1e-9)
    assert fit.report["optimum"]["r2"] == pytest.approx(expected.rsquared, rel=1e-9)  # about zero, as NIST has it
    assert fit.report["train"]["mse"] == pytest.approx(expected.ssr / 1000, rel=1e-9)


def test_ridge_is_shown_against_the_optimum(linreg, statsmodels_fit):
    fit = linreg(*EXACT, "--model.ridge", 100).succeeded()
    X, y = columns_and_target(Synthetic())
    ridge = Ridge(100, solver="svd").fit(X, y)
    expected = np.append(ridge.coef_, ridge.intercept_)
    np.testing.assert_allclose(column(fit, "estimate"), expected, rtol=1e-9)
    np.testing.assert_allclose(column(fit, "optimum"), statsmodels_fit.params, rtol=1e-9)
    np.testing.assert_allclose(column(fit, "distance"), expected - statsmodels_fit.params, rtol=1e-9)
    assert fit.report["train"]["mse"] == pytest.approx(mean_squared_error(y, ridge.predict(X)), rel=1e-9)
    # what is known of the optimum's errors does not hold for the biased_objective coefficients
    assert not {"standard_error", "ci_low", "ci_high", "t", "p"} & fit.report["coefficients"][0].keys()


def test_exact_fit_costs_no_warning_for_what_it_does_not_use(linreg, statsmodels_fit):
    fit = linreg(*EXACT, "--optimum", "false", "--guard", "false", "--trainer.max_epochs", 5).succeeded()
    np.testing.assert_allclose(column(fit, "standard_error"), statsmodels_fit.bse, rtol=1e-9)
    assert fit.report["epochs"] == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More rows than are read at once, in row groups of another size, of two types: the path, X and y."""
    path = tmp_path_factory.mktemp("large") / "large.parquet"
    random = np.random.default_rng(0)
    X = random.normal(size=(150_001, 3)).astype(np.float32) * np.float32([1, 1e-3, 100]) + np.float32([0, 0, 5])
    X = X.astype(np.float64)
    X[:, 1] += 1e-12 * random.normal(size=len(X))  # beyond float32
    y = X @ [1.0, 2e3, -0.01] + 3.0 + random.normal(size=len(X))
    types = {"a": np.float32, "b": np.float64, "c": np.float32}
    table = pa.table({name: values.astype(types[name]) for name, values in zip("abc", X.T, strict=True)} | {"y": y})
    parquet.write_table(table, path, row_group_size=40_000)
    return path, X, y


def test_parquet_is_read_in_pieces(linreg, large):
    path, X, y = large
    fit = linreg(*ON_A_TABLE, "--data.path", path).succeeded()
    expected = sm.OLS(y, np.column_stack([X, np.ones(len(X))])).fit()
    np.testing.assert_allclose(column(fit, "estimate"), expected.params, rtol=1e-9)
    np.testing.assert_allclose(column(fit, "standard_error"), expected.bse, rtol=1e-9)
    assert (fit.report["num_train"], fit.report["optimum"]["dof"]) == (150_001, 150_001 - 4)


@pytest.mark.parametrize("standardize", ["false", "true"])  # which changes nothing
def test_held_out_rows_are_scored_and_not_learnt_from(linreg, large, standardize):
    path, X, y = large
    fractions = {"val_fraction": 0.2, "test_fraction": 0.1}
    flags = [str(part) for name, value in fractions.items() for part in (f"--data.{name}", value)]
    fit = linreg(*ON_A_TABLE, "--data.path", path, *flags, "--data.standardize", standardize).succeeded()
    linreg("test", *files_of(fit.run)).succeeded()

    data, order = Table(str(path), "y", standardize=False, **fractions), np.argsort(y)
    rows = {}
    for part in ("train", "val", "test"):  # the target tells which row it is
        values = data.raw(part)[1].numpy()[:, 0]
        rows[part] = order[np.searchsorted(y, values, sorter=order)]
        np.testing.assert_array_equal(y[rows[part]], values)
    assert {part: len(some) for part, some in rows.items()} == {"train": 105_001, "val": 30_000, "test": 15_000}
    assert len(set(np.concatenate(list(rows.values())))) == len(y)

    theta = lstsq(X[rows["train"]], y[rows["train"]])
    np.testing.assert_allclose(column(fit, "estimate"), theta, rtol=1e-9)
    for part, some in rows.items():
        predicted = X[some] @ theta[:3] + theta[3]
        assert fit.report[part]["mse"] == pytest.approx(mean_squared_error(y[some], predicted), rel=1e-9)
        assert fit.report[part]["r2"] == pytest.approx(r2_score(y[some], predicted), rel=1e-9)


def refused(outcome, sentence):
    """One sentence, and no result that could be mistaken for one."""
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", f"error: {sentence}\n")
    assert not [path for path in outcome.cwd.rglob("*") if path.suffix == ".ckpt" or path.name == "report.json"]


def test_too_few_rows_are_refused(linreg, tmp_path):
    write_csv(tmp_path / "t.csv", {"a": [1.0, 2.0], "b": [0.5, 7.0], "y": [1.0, 3.0]})
    refused(
        linreg(*ON_A_TABLE, "--data.path", "t.csv"),
        "2 training rows cannot determine 3 coefficients: use more rows, fewer columns in --data.features, or"
        " --model.ridge above 0",
    )


def test_dependent_columns_are_refused(linreg, tmp_path):
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    write_csv(tmp_path / "t.csv", {"a": a, "other": a * b, "b": b, "sum": a + b, "y": a})
    refused(
        linreg(*ON_A_TABLE, "--data.path", "t.csv"),
        "the coefficients are not unique: column 'sum' follows linearly from 'a', 'b'. Leave 'sum' out of"
        " --data.features, or set --model.ridge above 0",
    )
    fit = linreg(*ON_A_TABLE, "--data.path", "t.csv", "--data.features", "[a, b, other]")  # as it says
    assert fit.status == 0


def test_dependent_columns_are_fitted_with_a_penalty_as_it_says(linreg, tmp_path):
    a = np.random.default_rng(0).normal(size=30)
    write_csv(tmp_path / "t.csv", {"a": a, "copy": a, "y": a + a**2})
    fit = linreg(*ON_A_TABLE, "--data.path", "t.csv", "--model.ridge", 0.5).succeeded()
    expected = Ridge(0.5, solver="svd").fit(np.column_stack([a, a]), a + a**2)
    np.testing.assert_allclose(column(fit, "estimate"), [*expected.coef_, expected.intercept_], rtol=1e-9)
    assert fit.report["note"] == "the rows do not determine a unique optimum, so there are no standard errors"
    assert "optimum" not in fit.report


@pytest.mark.parametrize("precision", ["bf16-true", "16-mixed", "bf16"])
def test_less_precision_is_refused(linreg, precision):
    refused(
        linreg(*EXACT, "--trainer.precision", precision),
        f"--trainer.precision {precision}: this model computes in float64; leave the flag out",
    )


def test_as_many_rows_as_coefficients_have_no_standard_errors(linreg, tmp_path):
    write_csv(tmp_path / "t.csv", {"x": [1.0, 2.0], "y": [1.0, 3.0]})
    fit = linreg(*ON_A_TABLE, "--data.path", "t.csv").succeeded()
    assert fit.coefficients == pytest.approx({"x": 2.0, "bias": -1.0})
    assert "standard_error" not in fit.report["coefficients"][0]
    assert "noise_floor" not in fit.report


def test_target_of_zeros_is_a_result_too(linreg, tmp_path):
    write_csv(tmp_path / "t.csv", {"x": [1.0, 2.0, 4.0, 5.0], "y": [0.0, 0.0, 0.0, 0.0]})
    fit = linreg(*ON_A_TABLE, "--data.path", "t.csv").succeeded()
    assert fit.coefficients == {"x": 0.0, "bias": 0.0}
    assert (fit.report["noise_floor"], fit.report["optimum"]["dof"]) == (0.0, 2)


def test_processes_agree(tmp_path):
    random = np.random.default_rng(0)
    X = random.normal([0, 100, 0], size=(65537, 3))  # of the second piece only one process gets a row
    y = X @ [1.0, -2.0, 3.0] + 4 + random.normal(size=len(X))
    parquet.write_table(pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": y}), tmp_path / "t.parquet")
    expected = sm.OLS(y, np.column_stack([X, np.ones(len(X))])).fit()
    for count in (1, 2, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        fit = on_processes(count, folder, *ON_A_TABLE, "--data.path", tmp_path / "t.parquet")
        assert (fit.status, fit.report["world_size"], fit.report["optimum"]["dof"]) == (0, count, 65533)
        np.testing.assert_allclose(column(fit, "estimate"), expected.params, rtol=1e-9)
        np.testing.assert_allclose(column(fit, "standard_error"), expected.bse, rtol=1e-9)
        assert fit.report["train"]["mse"] == pytest.approx(expected.ssr / len(X), rel=1e-9)


def test_processes_agree_where_one_has_more_steps_to_take(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 3300))
    parquet.write_table(pa.table({"x": x, "y": y}), tmp_path / "t.parquet", row_group_size=100)  # 17 and 16 pieces
    fit = on_processes(2, tmp_path, *ON_A_TABLE, "--data.path", "t.parquet").succeeded()
    expected = sm.OLS(y, sm.add_constant(x)).fit()
    np.testing.assert_allclose(column(fit, "estimate"), expected.params[::-1], rtol=1e-9)


def test_weighted_fit_has_no_criterion_that_depends_on_all_weights(linreg, tmp_path):
    random = np.random.default_rng(0)
    x, y, w = random.random(size=(3, 50))
    parquet.write_table(pa.table({"x": x, "y": y, "w": w}), tmp_path / "t.parquet")
    flags = (*ON_A_TABLE, "--data.path", "t.parquet", "--data.features", "[x]")
    weighted = linreg(*flags, "--data.weights", "w").succeeded().report["optimum"]
    expected = sm.WLS(y, sm.add_constant(x), w).fit()
    assert weighted["r2"] == pytest.approx(expected.rsquared, rel=1e-9)
    assert not {"aic", "bic"} & weighted.keys()


# A process's peak begins at that of the one it was started from: so from a small one.
SMALL = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
PEAKS = """
import pathlib, resource, runpy, sys
script, *arguments, first, second, third = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(script).parent))
for path in (first, second, third):
    sys.argv = [script, *arguments, path]
    runpy.run_path(script, run_name="__main__")
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    million = 2**20
    random = np.random.default_rng(0)
    names, files = ("a", "b", "c", "y"), ("2.parquet", "8.parquet", "8_in_one_group.parquet")
    for path, count, group in zip(files, (2, 8, 8), (million, million, 8 * million), strict=True):
        table = pa.table({name: random.standard_normal(count * million, dtype=np.float32) for name in names})
        parquet.write_table(table, tmp_path / path, row_group_size=group, compression="none", use_dictionary=False)
    launcher = ("-c", SMALL, sys.executable, "-c", PEAKS)
    fit = in_subprocess(tmp_path, *ON_A_TABLE, "--trainer.logger", "false", "--data.path", *files, launcher=launcher)
    assert (fit.status, fit.stderr) == (0, "")
    dofs = [int(dof) for dof in re.findall(r"(\d+) degrees of freedom\)", fit.stdout)]
    assert dofs == [2 * million - 4, 8 * million - 4, 8 * million - 4]
    smaller, larger, in_one_group = map(int, re.findall(r"^peak (\d+)$", fit.stdout, re.MULTILINE))
    assert larger < 1.1 * smaller
    assert in_one_group < 1.1 * smaller
