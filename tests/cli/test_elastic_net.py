"""`ElasticNet` on real and random tables, against scikit-learn on the very same folds."""

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_diabetes

from linreg_pl.data.folds import Folds
from linreg_pl.runs.report import read
from tests.functional.test_elastic_net import brute_force, peer
from tests.support.commands import CONFIGS, in_process, on_processes

NET = ("fit", "--config", CONFIGS / "elastic_net.yaml", "--data", "Table", "--data.path", "t.parquet")
NET += ("--data.target", "y", "--figures", "false")
pytestmark = pytest.mark.filterwarnings("ignore:Objective did not converge")


@pytest.fixture(scope="module")
def frame():
    """9,000 rows of patients, sorted by the target; some values are missing and some weights are 0."""
    random, n = np.random.default_rng(0), 9_000
    patient = random.integers(0, 60, size=n)
    X = random.normal(size=(n, 8)) * [1, 5, 1, 1, 0.1, 1, 1, 1] + random.normal(size=(60, 8))[patient]
    y = X @ [1.0, -0.5, 0, 0, 3.0, 0.05, 0, 0] + 4 * random.normal(size=n) + random.normal(size=60)[patient]
    frame = pd.DataFrame(X, columns=list("abcdefgh")).assign(y=y, patient=[f"P{i}" for i in patient])
    frame["w"] = random.uniform(0.5, 2, size=n) * (random.random(n) > 0.1)
    frame.loc[random.random(n) < 0.05, "c"] = np.nan
    return frame.sort_values("y", ignore_index=True)


def numbered(folder, number):
    return read(folder / f"runs/elastic_net/version_{number}")


def features(*flags):
    return (*NET, "--data.features", "[a, b, c, d, e, f, g, h]", "--data.missing", "drop", *flags)


def check(report, frame, l1_ratio=1.0, weighted=False, group=None, folds=10):
    """Repeat the cross-validation by scikit-learn, and the fit at the penalty that was chosen."""
    drawn = report["drawn"] if group else Folds(folds, 0, len(frame)).draw(torch.arange(len(frame)), []).numpy()
    used = frame["c"].notna() & ((frame["w"] > 0) if weighted else True)
    some, drawn = frame[used], drawn[used]
    X, y = some[list("abcdefgh")].to_numpy(), some["y"].to_numpy()
    weight = some["w"].to_numpy() / some["w"].mean() if weighted else np.ones(len(some))
    found = report["cv"]
    places = [0, 30, 60, 99]
    each, sizes = brute_force(X, y, weight, drawn, [found["penalty"][i] for i in places], l1_ratio, True)
    mse = np.average(each, axis=0, weights=sizes)
    np.testing.assert_allclose([found["mse"][i] for i in places], mse, rtol=1e-9)
    coef, intercept, left = peer(X, y, weight, found["chosen"], l1_ratio, True, True)
    mine = [row["estimate"] for row in report["coefficients"]]
    np.testing.assert_allclose(mine[:-1], coef, rtol=0, atol=1e-8)
    np.testing.assert_allclose(mine[-1], intercept, rtol=0, atol=1e-7)
    assert [value != 0 for value in mine[:-1]] == left.tolist()


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_choice_is_that_of_brute_force(tmp_path, frame, l1_ratio, weighted):
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=1_500)
    flags = ("--data.weights", "w") if weighted else ()
    report = in_process(tmp_path, *features("--model.l1_ratio", l1_ratio, *flags)).succeeded().report
    check(report, frame, l1_ratio, weighted)
    assert report["cv"]["folds"] == 10
    assert report["cv"]["chosen"] == report["cv"]["penalty"][int(np.argmin(report["cv"]["mse"]))]
    assert not any("standard_error" in row for row in report["coefficients"])


def test_the_same_on_several_processes_and_streamed(tmp_path, frame):
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=700)
    flags = features("--data.groups", "[patient]", "--model.rule", "1se")
    in_process(tmp_path, *flags).succeeded()
    in_process(tmp_path, *flags, "--data.memory", 1).succeeded()
    for processes in (2, 3):
        on_processes(processes, tmp_path, *flags).succeeded()
    reports = [numbered(tmp_path, number) for number in range(4)]
    for other in reports[1:]:
        np.testing.assert_allclose(other["cv"]["mse"], reports[0]["cv"]["mse"], rtol=1e-9)
        assert other["cv"]["chosen"] == pytest.approx(reports[0]["cv"]["chosen"], rel=1e-9)
        pairs = [[row["estimate"] for row in report["coefficients"]] for report in (reports[0], other)]
        np.testing.assert_allclose(*pairs, rtol=0, atol=1e-9)
    found = reports[0]["cv"]
    best = int(np.argmin(found["mse"]))
    place = found["penalty"].index(found["chosen"])
    assert place < best
    assert found["mse"][place] <= found["mse"][best] + found["se"][best] < found["mse"][place - 1]


def test_rows_of_a_group_stay_in_one_fold(tmp_path, frame):
    """With as many folds as groups, a fold is a group."""
    some = frame[frame["patient"].isin(["P1", "P2", "P3", "P4", "P5"])].reset_index(drop=True)
    some.to_parquet(tmp_path / "t.parquet", row_group_size=100)
    report = in_process(tmp_path, *features("--data.groups", "[patient]", "--model.folds", 5)).succeeded().report
    assert report["cv"]["folds"] == 5
    check(report | {"drawn": pd.factorize(some["patient"])[0]}, some, group="patient")


def test_folds_are_a_draw_per_row():
    folds = Folds(10, 3, 200_000)
    whole = folds.draw(torch.arange(200_000), [])
    assert whole.bincount().min() >= 19_990
    for start, stop in ((0, 10), (65_530, 65_540), (131_000, 200_000)):
        torch.testing.assert_close(folds.draw(torch.arange(start, stop), []), whole[start:stop])
    assert (Folds(10, 4, 200_000).draw(torch.arange(200_000), []) != whole).float().mean() > 0.8
    assert abs(whole[:100_000].float().mean() - whole[100_000:].float().mean()) < 0.05
    keys = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63, size=25)).repeat(40)
    of_groups = Folds(10, 3, 1_000, lambda: iter([[keys[:500]], [keys[500:]]]))
    drawn = of_groups.draw(torch.arange(1_000), [keys])
    assert len(set(zip(keys.tolist(), drawn.tolist(), strict=True))) == 25
    assert set(drawn.bincount().tolist()) == {80, 120}  # two or three groups each
    torch.testing.assert_close(of_groups.draw(torch.arange(7, 99), [keys[7:99]]), drawn[7:99])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    frame = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "y"})
    frame["sex"] = np.where(frame["sex"] == 1, "f", "m")
    frame.to_parquet(folder / "t.parquet")
    flags = ("--data.categorical", "[sex]", "--model.l1_ratio", "[0.5, 1]", "--figures", "true")
    return folder, in_process(folder, *NET, *flags, pictures=True).succeeded()


def test_report_pictures_and_other_commands(run):
    folder, outcome = run
    for sentence in (
        "chosen by cross-validation in 10 folds (the smallest error)",
        "columns are left: ",
        "no standard errors",
    ):
        assert sentence in outcome.stdout
    again = in_process(folder, "report", outcome.run).succeeded().stdout
    assert again[: again.index("this run")] in outcome.stdout
    for name in ("shrinkage", "cross_validation"):
        with Image.open(outcome.run / f"figures/{name}.png") as picture:
            assert len(picture.convert("RGB").getcolors(2**20)) > 20
    assert set(outcome.report["cv"]["l1_ratios"]) == {"0.5", "1.0"}
    assert "elasticnet" in in_process(folder, "compare", outcome.run).succeeded().stdout
    json.loads((in_process(folder, "export", outcome.run).succeeded() and outcome.run / "model.json").read_text())
    files = ("--config", outcome.run / "config.yaml", "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    in_process(folder, "predict", *files, "--predictions", "p.parquet").succeeded()
    predicted = parquet.read_table(folder / "p.parquet")
    assert predicted.column_names == ["row", "prediction"]
    values = {row["name"]: row["estimate"] for row in outcome.report["coefficients"]}
    table = pd.read_parquet(folder / "t.parquet").assign(**{"sex=m": lambda rows: rows["sex"] == "m"})
    expected = sum(table[name] * value for name, value in values.items() if name != "bias") + values["bias"]
    np.testing.assert_allclose(predicted["prediction"], expected, rtol=1e-9)


def test_refit_without_the_table(run):
    folder, first = run[0], run[0] / "runs/elastic_net/version_0"
    (folder / "t.parquet").rename(folder / "away.parquet")
    in_process(folder, "refit", first, "--model.penalty", 2, "--model.l1_ratio", 1).succeeded()
    in_process(folder, "refit", first, "--features=[sex, bmi, s5]", "--trainer.devices", 2).succeeded()
    in_process(folder, "refit", first, "--model", "Exact", "--model.ridge", 0).succeeded()
    for flags, sentence in {
        ("--features", "[bmj]"): "did you mean 'bmi'?",
        ("--model", "Fused"): "Fused needs the rows; take --model Exact or ElasticNet",
        ("--diagnostics", "true"): "--diagnostics True: needs the rows",
        ("--model.folds", 5): "the checkpoint holds the factors of 10; fit again",
        ("--features=[]",): "--features: needs a list of columns",
        ("--features",): "--features: needs a list of columns",
        ("--data.path", "u.parquet"): "the data are those of the run; leave the flag out",
    }.items():
        wrong = in_process(folder, "refit", first, *flags)
        assert wrong.status != 0
        assert sentence in wrong.stderr
    (folder / "away.parquet").rename(folder / "t.parquet")
    fixed, fewer, least = (numbered(folder, number) for number in (1, 2, 3))
    table = pd.read_parquet(folder / "t.parquet").assign(sex=lambda rows: (rows["sex"] == "m").astype(float))
    names = [name for name in table if name != "y"]
    X, y = table[names].to_numpy(), table["y"].to_numpy()
    coef, *_ = peer(X, y, np.ones(len(y)), 2.0, 1.0, True, True)
    np.testing.assert_allclose([row["estimate"] for row in fixed["coefficients"]][:-1], coef, atol=1e-8)
    flags = ("--data.categorical", "[sex]", "--data.features", "[sex, bmi, s5]", "--model.l1_ratio", "[0.5, 1]")
    (folder / "again").mkdir()
    again = in_process(folder / "again", *NET, "--data.path", folder / "t.parquet", *flags).succeeded().report
    pairs = [[row["estimate"] for row in found["coefficients"]] for found in (fewer, again)]
    np.testing.assert_allclose(*pairs, rtol=1e-9)
    np.testing.assert_allclose(fewer["cv"]["mse"], again["cv"]["mse"], rtol=1e-9)
    theirs = np.linalg.lstsq(np.column_stack([X, np.ones(len(y))]), y, rcond=None)[0]
    np.testing.assert_allclose([row["estimate"] for row in least["coefficients"]], theirs, rtol=1e-8)
    assert all("standard_error" in row for row in least["coefficients"])
    new = folder / "runs/elastic_net/version_2"
    files = ("--config", new / "config.yaml", "--ckpt_path", new / "checkpoints/last.ckpt")
    in_process(folder, "predict", *files, "--predictions", "q.parquet").succeeded()
    values = {row["name"]: row["estimate"] for row in fewer["coefficients"]}
    expected = (
        values["sex=m"] * table["sex"] + values["bmi"] * table["bmi"] + values["s5"] * table["s5"] + values["bias"]
    )
    np.testing.assert_allclose(parquet.read_table(folder / "q.parquet")["prediction"], expected, rtol=1e-9)


def test_a_finished_run_that_is_resumed_tells_the_same(tmp_path, frame):
    frame.to_parquet(tmp_path / "t.parquet")
    outcome = in_process(tmp_path, *features()).succeeded()
    assert not {"f", "f_p", "aic", "bic"} & set(outcome.report["optimum"])
    files = ("--config", outcome.run / "config.yaml", "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    in_process(tmp_path, "fit", *files)
    first, second = (numbered(tmp_path, number) for number in (0, 1))
    for key in ("penalty", "cv", "coefficients", "columns_left", "optimum"):
        assert second[key] == first[key]


def test_no_column_is_left(tmp_path, frame):
    frame.to_parquet(tmp_path / "t.parquet")
    outcome = in_process(tmp_path, *features("--model.refit", "true", "--model.penalty", 100)).succeeded()
    assert [row["estimate"] for row in outcome.report["coefficients"][:-1]] == [0] * 8
    assert outcome.report["coefficients"][-1]["estimate"] == pytest.approx(frame.dropna()["y"].mean(), rel=1e-9)
    assert "0 of 8 columns are left\n" in outcome.stdout


def test_least_squares_on_the_columns_that_are_left(tmp_path, frame):
    frame.to_parquet(tmp_path / "t.parquet")
    outcome = in_process(tmp_path, *features("--model.rule", "1se", "--model.refit", "true")).succeeded()
    rows = [row for row in outcome.report["coefficients"] if row["estimate"]]
    used = frame.dropna()
    theirs = sm.OLS(used["y"], sm.add_constant(used[[row["name"] for row in rows[:-1]]], prepend=False)).fit()
    np.testing.assert_allclose([row["estimate"] for row in rows], theirs.params, rtol=1e-8)
    np.testing.assert_allclose([row["standard_error"] for row in rows], theirs.bse, rtol=1e-8)
    assert 2 < len(rows) < 9
    assert "do not know that these columns were chosen: they are too small" in outcome.stdout


REFUSED = {
    "one penalty": (("--model.num_penalties", 1), "--model.num_penalties 1: there is nothing to choose from"),
    "no folds": (("--model.folds", 1), "--model.folds 1: cross-validation needs two folds"),
    "ratio": (("--model.l1_ratio", 1.5), "--model.l1_ratio 1.5: must lie between 0 (ridge) and 1 (lasso)"),
    "several ratios": (
        ("--model.l1_ratio", "[0.1, 1]", "--model.penalty", 1),
        "is chosen only with --model.penalty cv",
    ),
    "negative": (("--model.penalty", -1), "--model.penalty -1"),
    "word": (("--model.penalty", "best"), "--model.penalty"),
    "memory": (("--model.folds", 9000, "--data.memory", 1), "--model.folds 9000: the factors of so many folds need"),
    "one group": (("--data.groups", "[same]"), "fewer than two folds have rows; use more rows, or give a penalty"),
    "group unknown": (("--data.groups", "[patiemt]"), "did you mean 'patient'?"),
    "group is the target": (("--data.groups", "[y]"), "--data.groups: 'y' is given twice, or is the target"),
    "covariance": (("--covariance", "HC3"), "--covariance HC3: with a penalty"),
}


@pytest.mark.parametrize(("flags", "sentence"), REFUSED.values(), ids=REFUSED)
def test_refused_with_a_sentence(tmp_path, frame, flags, sentence):
    frame[:500].assign(same=1).to_parquet(tmp_path / "t.parquet")
    outcome = in_process(tmp_path, *features(*flags))
    assert outcome.status != 0
    assert sentence in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def degenerate(what):
    random = np.random.default_rng(0)
    X = pd.DataFrame(random.normal(size=(40, 6)), columns=list("abcdef"))
    y = X["a"] * 3 + random.normal(size=40)
    if what == "alike":
        X["b"], X["c"] = X["a"], 2 * X["a"] + X["d"]
    if what == "constant":
        X["b"] = 7.0
    if what == "more columns than rows":
        X, y = X[:5], y[:5]
    if what == "target":
        y = y * 0 + 3
    return X.assign(y=y)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("what", ["alike", "constant", "more columns than rows", "target"])
def test_tables_that_least_squares_cannot_take(tmp_path, what, l1_ratio):
    """A gap of rounding proves the solution, which need not be unique."""
    degenerate(what).to_parquet(tmp_path / "t.parquet")
    flags = ("--model.folds", 4, "--model.l1_ratio", l1_ratio)
    report = in_process(tmp_path, *NET, *flags).succeeded().report
    values = {row["name"]: row["estimate"] for row in report["coefficients"]}
    assert np.isfinite(list(values.values())).all()
    assert report["duality_gap"] < 1e-12
    if what == "constant":
        assert values["b"] == 0
    if what == "target":
        assert values["bias"] == pytest.approx(3, rel=1e-12)
    if what == "alike":
        assert report["train"]["r2"] > 0.5
