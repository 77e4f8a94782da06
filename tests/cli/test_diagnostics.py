"""``--diagnostics``, ``--beta`` and ``wald`` on real tables, against statsmodels."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from PIL import Image
from statsmodels.stats.diagnostic import het_breuschpagan
from statsmodels.stats.stattools import durbin_watson, jarque_bera

from linreg_pl.runs import report as reports
from tests.cli.test_covariance import EXACT, TABLES, expected, split
from tests.support.commands import CONFIGS, in_process, on_processes

SYNTHETIC = ("--config", CONFIGS / "exact.yaml", "--data", "Synthetic")

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # within statsmodels


def check(found, X, y, weight=None, rtol=1e-8):
    """Compare a report's diagnostics with statsmodels on the same rows, without and within the error stated."""
    root = np.ones(len(y)) if weight is None else np.sqrt(weight / weight.mean())
    A = sm.add_constant(X)
    theirs = sm.OLS(y * root, A * root[:, None]).fit()
    residual = theirs.resid
    np.testing.assert_allclose(found["durbin_watson"], durbin_watson(residual), rtol=rtol)
    np.testing.assert_allclose(list(found["jarque_bera"].values()), jarque_bera(residual), rtol=rtol, atol=1e-290)
    test = het_breuschpagan(residual, A)[:2]
    np.testing.assert_allclose(list(found["breusch_pagan"].values()), test, rtol=rtol, atol=1e-290)
    error = found["residuals"].get("error", 1e-8 * residual.std())
    quartiles = [found["residuals"][name] for name in ("min", "q1", "median", "q3", "max")]
    np.testing.assert_allclose(quartiles, np.quantile(residual, [0, 0.25, 0.5, 0.75, 1]), rtol=0, atol=error)
    influence = theirs.get_influence()
    cook, rows = influence.cooks_distance[0], [row["row"] for row in found["influential"]]
    assert sorted(rows) == sorted(np.argsort(-cook)[:20])
    np.testing.assert_allclose([row["cook"] for row in found["influential"]], cook[rows], rtol=rtol)
    leverages = influence.hat_matrix_diag[rows]
    np.testing.assert_allclose([row["leverage"] for row in found["influential"]], leverages, rtol=rtol)
    if len(y) < 1000:  # statsmodels fits once for each row left out
        studentized = influence.resid_studentized_external[rows]
        np.testing.assert_allclose([row["studentized"] for row in found["influential"]], studentized, rtol=1e-7)


@pytest.mark.parametrize("name", TABLES)
def test_real_tables(tmp_path, name):
    frame, target, weights, features = split(name)
    frame.to_parquet(tmp_path / "t.parquet")
    flags = ("--data.path", "t.parquet", "--data.target", target, "--data.features", f"[{', '.join(features)}]")
    flags += ("--data.weights", weights) if weights else ()
    outcome = in_process(
        tmp_path, *EXACT, *flags, "--diagnostics", "true", "--covariance", "HC3", pictures=True
    ).succeeded()
    check(
        outcome.report["diagnostics"],
        frame[features].to_numpy(),
        frame[target].to_numpy(),
        weights and frame[weights].to_numpy(),
    )
    for sentence in ("Durbin-Watson ", "Jarque-Bera ", "Breusch-Pagan ", "Cook's distance", "residuals from"):
        assert sentence in outcome.stdout
    with Image.open(outcome.run / "figures/diagnostics.png") as picture:
        assert picture.convert("RGB").getextrema() != ((255, 255),) * 3


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """20,000 rows in several row groups, some of which are left out."""
    random, n = np.random.default_rng(0), 20_000
    frame = pd.DataFrame(random.normal(size=(n, 4)) + np.array([0, 5, 0, 1e3]), columns=list("abcd"))
    noise = random.standard_t(3, size=n) * (1 + frame["a"].abs())
    frame["y"] = frame @ [1.0, 2.0, -1.0, 0.5] + noise + 0.7 * np.roll(noise, 1)
    frame.loc[frame.index % 11 == 3, "b"] = np.nan
    path = tmp_path_factory.mktemp("unequal") / "t.parquet"
    frame.to_parquet(path, row_group_size=3_000)
    return path, frame.dropna()


def arguments(path, *flags):
    table = ("--data.path", path, "--data.target", "y", "--data.missing", "drop")
    return *table, "--diagnostics", "true", "--figures", "false", *flags


def renumbered(found, used):
    """Diagnostics with the numbers of the rows that are used; those of the report count all rows of the table."""
    place = {row: number for number, row in enumerate(used.index)}
    return found | {"influential": [row | {"row": place[row["row"]]} for row in found["influential"]]}


@pytest.mark.parametrize("covariance", ["classical", "HC3"])
def test_beside_streamed_sgd(tmp_path, unequal, covariance):
    path, used = unequal
    flags = ("--model", "Fused", "--data.memory", 1, "--trainer.max_epochs", 2, "--guard", "false")
    fused = ("fit", "--config", CONFIGS / "table.yaml", *flags, "--covariance", covariance)
    rows = pd.concat([used] * 25)  # beyond 1 MiB
    large = pd.concat([pd.read_parquet(path)] * 25, ignore_index=True)
    large.to_parquet(tmp_path / "t.parquet", row_group_size=50_000)
    outcome = in_process(tmp_path, *fused, *arguments("t.parquet"))
    found = outcome.report["diagnostics"]
    assert 0 < found["residuals"]["error"] < 1e-3 * rows["y"].std()
    rows.index = large.dropna().index
    X, y = rows[list("abcd")].to_numpy(), rows["y"].to_numpy()
    theirs = sm.OLS(y, sm.add_constant(X)).fit().resid
    quartiles = [found["residuals"][name] for name in ("q1", "median", "q3")]
    np.testing.assert_allclose(
        quartiles, np.quantile(theirs, [0.25, 0.5, 0.75]), rtol=0, atol=found["residuals"]["error"]
    )
    np.testing.assert_allclose(found["durbin_watson"], durbin_watson(theirs), rtol=1e-8)
    np.testing.assert_allclose(
        found["breusch_pagan"]["statistic"], het_breuschpagan(theirs, sm.add_constant(X))[0], rtol=1e-8
    )
    assert outcome.report["covariance"] == covariance


@pytest.mark.parametrize("processes", [2, 3])
def test_on_several_processes(tmp_path, unequal, processes):
    path, used = unequal
    outcome = on_processes(processes, tmp_path, *EXACT, *arguments(path)).succeeded()
    check(renumbered(outcome.report["diagnostics"], used), used[list("abcd")].to_numpy(), used["y"].to_numpy())


def test_rows_are_numbered_as_in_the_table(tmp_path, unequal):
    path, used = unequal
    outcome = in_process(tmp_path, *EXACT, *arguments(path, "--data.val_fraction", 0.2)).succeeded()
    found = outcome.report["diagnostics"]["influential"]
    assert {row["row"] for row in found} <= set(used.index)
    assert all(row["studentized"] * (used["y"] - used["y"].mean())[row["row"]] != 0 for row in found)


def test_beta_is_the_coefficient_of_standardised_columns(tmp_path):
    frame, target, _, features = split("star98")
    frame.to_parquet(tmp_path / "t.parquet")
    flags = ("--data.path", "t.parquet", "--data.target", target, "--data.features", f"[{', '.join(features)}]")
    outcome = in_process(tmp_path, *EXACT, *flags, "--beta", "true", "--figures", "false").succeeded()
    standardised = (frame - frame.mean()) / frame.std()
    theirs = sm.OLS(standardised[target], standardised[features]).fit().params
    mine = [row["beta"] for row in outcome.report["coefficients"][:-1]]
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)
    assert "beta" not in outcome.report["coefficients"][-1]
    assert " beta " in outcome.stdout.replace("\n", " \n ")
    theirs = expected(frame, target, None, features)
    assert f"F {theirs.fvalue:.6g} on 5 and {theirs.df_resid:.0f} degrees of freedom" in outcome.stdout


@pytest.fixture(scope="module")
def engel_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engel")
    frame, target, _, features = split("ccard")
    frame.to_parquet(folder / "t.parquet")
    names = f"[{', '.join([*features, 'AGE'])}]"
    flags = ("--data.path", "t.parquet", "--data.target", target, "--data.features", names, "--figures", "false")
    run = in_process(folder, *EXACT, *flags, "--covariance", "HC2").succeeded().run
    return folder, run, expected(frame, target, None, [*features, "AGE"], cov_type="HC2"), [*features, "AGE"]


def test_wald_from_the_checkpoint_alone(engel_run):
    folder, run, theirs, names = engel_run
    (folder / "t.parquet").unlink()
    (run / "report.json").rename(run / "report.away")
    outcome = in_process(folder, "wald", run, f"{names[0]} = 2 * AGE, {{{names[1]}}} = 3").succeeded()
    (run / "report.away").rename(run / "report.json")
    C = np.array([[1, 0, 0, -2, 0], [0, 1, 0, 0, 0]])
    test = theirs.f_test((C, [0, 3]))
    assert f"F {np.squeeze(test.fvalue):.6g} on 2 and {test.df_denom:.0f} degrees of freedom\n" in outcome.stdout
    assert f"p {test.pvalue:.4g}, by HC2 standard errors" in outcome.stdout
    assert "for the least-squares optimum of the training rows" in outcome.stdout


def test_wald_needs_no_trainer(engel_run):
    code = "import sys; from linreg_pl.cli import wald; print('lightning' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--model.ridge", 1, "--diagnostics", "true"), "--diagnostics true: with a penalty"),
        (
            ("--model", "Fused", "--optimum", "false", "--diagnostics", "true"),
            "--diagnostics true: is that of the optimum",
        ),
    ],
)
def test_refused_with_a_sentence(tmp_path, flags, sentence):
    outcome = in_process(tmp_path, "fit", "--config", CONFIGS / "exact.yaml", *flags)
    assert outcome.status != 0
    assert sentence in outcome.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((*SYNTHETIC, "--model.ridge", 1), "with a penalty, or another loss than the squared error"),
        (("--config", CONFIGS / "scratch.yaml", "--optimum", "false"), "did not find the least-squares optimum"),
        (("--config", CONFIGS / "concise.yaml", "--model.loss", "huber"), "with a penalty, or another loss"),
        ((*SYNTHETIC, "--data.num_train", 3), "do not determine a unique optimum, or there are no more"),
    ],
)
def test_runs_without_a_test(tmp_path, flags, sentence):
    run = in_process(tmp_path, "fit", "--figures", "false", *flags, "--data.num_val", 0).succeeded().run
    outcome = in_process(tmp_path, "wald", run, "x0 = 1")
    assert outcome.status != 0
    assert sentence in outcome.stderr


def test_wald_says_what_is_wrong(tmp_path, engel_run):
    folder, run, _, names = engel_run
    for words, sentence in {
        (run, f"{names[0]}E = 1"): f"did you mean {names[0]!r}?",
        (run, "AGE = 1, AGE = 2"): "contradict each other",
        (run, "AGE = 1, 2 * AGE = 2"): "follow from each other",
        (folder / "nothing", "AGE"): "holds no checkpoints/last.ckpt",
        (run,): "the following arguments are required: CONSTRAINTS",
    }.items():
        outcome = in_process(folder, "wald", *words)
        assert outcome.status != 0
        assert sentence in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def test_a_finished_run_that_is_resumed_finds_them(tmp_path):
    frame, target, _, features = split("star98")
    frame.to_parquet(tmp_path / "t.parquet")
    flags = ("--data.path", "t.parquet", "--data.target", target, "--data.features", f"[{', '.join(features)}]")
    run = in_process(tmp_path, *EXACT, *flags, "--figures", "false").succeeded().run
    files = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    in_process(tmp_path, "fit", *files, "--diagnostics", "true", "--covariance", "HC1")
    report = reports.read(run.with_name("version_1"))
    check(report["diagnostics"], frame[features].to_numpy(), frame[target].to_numpy())
    errors = [row["standard_error"] for row in report["coefficients"]]
    np.testing.assert_allclose(errors, expected(frame, target, None, features, cov_type="HC1").bse, rtol=1e-8)


def test_statistics_without_a_value_are_told_as_such(tmp_path):
    """Residuals of two sizes only: their squares are all alike, so that nothing can be regressed on them."""
    pd.DataFrame({"x": [0, 0, 1, 1] * 10, "y": [0.9, 1.1, 1.9, 2.1] * 10}).to_parquet(tmp_path / "t.parquet")
    outcome = in_process(tmp_path, *EXACT, "--data.path", "t.parquet", "--data.target", "y", "--diagnostics", "true")
    assert "nan" not in outcome.succeeded().stdout
    again = in_process(tmp_path, "report", outcome.run).succeeded().stdout
    assert again[: again.index("this run")] in outcome.stdout


def test_a_perfect_fit_has_no_diagnostics(tmp_path):
    pd.DataFrame({"x": range(20), "y": [3] * 20}).to_parquet(tmp_path / "t.parquet")
    outcome = in_process(tmp_path, *EXACT, "--data.path", "t.parquet", "--data.target", "y", "--diagnostics", "true")
    report = reports.read(outcome.succeeded().run)
    assert "diagnostics" not in report
    json.dumps(report, allow_nan=False)
