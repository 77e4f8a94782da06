"""``--covariance``: standard errors under errors of unequal variance and within clusters, against statsmodels."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from pyarrow import parquet

from linreg_pl.runs import report as reports
from tests.support.commands import CONFIGS, in_process, on_processes

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # within statsmodels

EXACT = ("fit", "--config", CONFIGS / "exact.yaml", "--data", "Table")
TABLES = {  # of statsmodels: target, weights
    "engel": ("foodexp", None),
    "ccard": ("AVGEXP", "AGE"),
    "star98": ("NABOVE", None),
}
FEATURES = {"star98": ["LOWINC", "PERASIAN", "PERBLACK", "PERHISP", "AVYRSEXP"]}


def split(name):
    """Path-ready frame, target, weights and features of a table."""
    frame = getattr(sm.datasets, name).load_pandas().data.astype(float)
    target, weights = TABLES[name]
    features = FEATURES.get(name) or [column for column in frame if column not in (target, weights)]
    return frame, target, weights, features


def expected(frame, target, weights, features, **options):
    X, y = sm.add_constant(frame[features].to_numpy(), prepend=False), frame[target].to_numpy()
    model = sm.OLS(y, X) if weights is None else sm.WLS(y, X, weights=frame[weights].to_numpy())
    return model.fit(use_t=True, **options)


def check(report, theirs, rtol=1e-8):
    mine = pd.DataFrame(report["coefficients"])
    np.testing.assert_allclose(mine["standard_error"], theirs.bse, rtol=rtol)
    np.testing.assert_allclose(mine["t"], theirs.params / theirs.bse, rtol=rtol)
    np.testing.assert_allclose(mine["p"], theirs.pvalues, rtol=1e-6, atol=1e-290)
    if {"ci_low", "ci_high"} <= set(mine):
        np.testing.assert_allclose(mine[["ci_low", "ci_high"]], theirs.conf_int(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["HC0", "HC1", "HC2", "HC3"])
@pytest.mark.parametrize("name", TABLES)
def test_real_tables(tmp_path, name, kind):
    frame, target, weights, features = split(name)
    frame.to_parquet(tmp_path / "t.parquet")
    flags = ("--data.path", "t.parquet", "--data.target", target, "--data.features", f"[{', '.join(features)}]")
    flags += ("--data.weights", weights) if weights else ()
    outcome = in_process(tmp_path, *EXACT, *flags, "--covariance", kind).succeeded()
    theirs = expected(frame, target, weights, features, cov_type=kind)
    check(outcome.report, theirs)
    np.testing.assert_allclose(outcome.report["optimum"]["f"], np.squeeze(theirs.fvalue), rtol=1e-8)
    np.testing.assert_allclose(outcome.report["optimum"]["f_p"], np.squeeze(theirs.f_pvalue), rtol=1e-6)
    assert outcome.report["covariance"] == kind
    assert f"standard errors: {kind}, for errors of any variance" in outcome.stdout


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """60,000 rows of firms and years whose rows are alike; the file has many row groups."""
    random, n = np.random.default_rng(0), 60_000
    firm, year = random.integers(0, 90, n), random.integers(1980, 2020, n)
    frame = pd.DataFrame(random.normal(size=(n, 5)) + random.normal(size=(90, 5))[firm], columns=list("abcde"))
    noise = random.normal(size=n) * (1 + frame["a"].abs()) + random.normal(size=90)[firm]
    frame["y"] = frame @ np.arange(1.0, 6.0) + 7 + noise + random.normal(size=40)[year - 1980]
    frame["firm"], frame["year"] = [f"F{number}" for number in firm], year
    path = tmp_path_factory.mktemp("panel") / "panel.parquet"
    frame.to_parquet(path, row_group_size=7_000)
    return path, frame


KINDS = {
    "HC3": ((), {"cov_type": "HC3"}),
    "firm": (("--data.clusters", "[firm]"), {"cov_type": "cluster"}),
    "firm, year": (("--data.clusters", "[firm, year]"), {"cov_type": "cluster"}),
}


def flags_and_reference(panel, kind):
    path, frame = panel
    flags, options = KINDS[kind]
    if flags:
        groups = np.column_stack([pd.factorize(frame[name])[0] for name in kind.split(", ")])
        options = options | {"cov_kwds": {"groups": groups.squeeze()}}
    flags = (*flags, "--data.path", path, "--data.target", "y", "--data.features", "[a, b, c, d, e]")
    return (*flags, "--covariance", options["cov_type"]), expected(frame, "y", None, list("abcde"), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_streamed_sgd(tmp_path, panel, kind):
    flags, theirs = flags_and_reference(panel, kind)
    fused = ("fit", "--config", CONFIGS / "table.yaml", "--model", "Fused", "--data.memory", 1, *flags)
    outcome = in_process(tmp_path, *fused)
    mine = pd.DataFrame(outcome.report["coefficients"])
    np.testing.assert_allclose(mine["standard_error"], theirs.bse, rtol=1e-8)


@pytest.mark.parametrize(("processes", "kind"), [(2, "HC3"), (3, "HC3"), (2, "firm"), (3, "firm, year")])
def test_on_several_processes(tmp_path, panel, processes, kind):
    flags, theirs = flags_and_reference(panel, kind)
    outcome = on_processes(processes, tmp_path, *EXACT, *flags).succeeded()
    check(outcome.report, theirs)


def test_few_clusters_get_a_warning(tmp_path):
    frame = sm.datasets.grunfeld.load_pandas().data
    frame.to_csv(tmp_path / "t.csv", index=False)
    flags = ("--data.path", "t.csv", "--data.target", "invest", "--data.features", "[value, capital]")
    outcome = in_process(tmp_path, *EXACT, *flags, "--covariance", "cluster", "--data.clusters", "[firm]").succeeded()
    groups = pd.factorize(frame["firm"])[0]
    theirs = expected(frame, "invest", None, ["value", "capital"], cov_type="cluster", cov_kwds={"groups": groups})
    check(outcome.report, theirs)
    assert outcome.report["clusters"] == {"firm": 11}
    assert "standard errors: cluster, 11 by firm\n" in outcome.stdout
    assert "11 clusters by 'firm' are few: below some 30, p is too small on average" in outcome.stdout


def test_rows_that_are_left_out_are_in_no_cluster(tmp_path, panel):
    frame = panel[1][:9000].copy()
    frame.loc[frame.index % 7 == 0, "b"] = np.nan
    frame["w"] = (frame.index % 5 != 0) * 2.0
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=1000)
    flags = ("--data.path", "t.parquet", "--data.target", "y", "--data.features", "[a, b]", "--data.missing", "drop")
    flags += ("--data.weights", "w", "--covariance", "cluster", "--data.clusters", "[firm]")
    outcome = in_process(tmp_path, *EXACT, *flags).succeeded()
    used = frame[frame["b"].notna() & (frame["w"] > 0)]
    groups = pd.factorize(used["firm"])[0]
    check(outcome.report, expected(used, "y", "w", ["a", "b"], cov_type="cluster", cov_kwds={"groups": groups}))


def test_predictions_stay_classical_and_say_so(tmp_path, panel):
    flags = ("--data.path", panel[0], "--data.target", "y", "--data.features", "[a, b]")
    tables = []
    for kind in ("classical", "HC3"):
        (tmp_path / kind).mkdir()
        run = in_process(tmp_path / kind, *EXACT, *flags, "--covariance", kind).succeeded().run
        files = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
        outcome = in_process(tmp_path / kind, "predict", *files, "--predictions", "p.parquet").succeeded()
        assert ("the intervals are those for errors of equal variance" in outcome.stdout) == (kind == "HC3")
        tables.append(parquet.read_table(tmp_path / kind / "p.parquet"))
    assert tables[0].equals(tables[1])


def test_a_fit_that_goes_on_keeps_it(tmp_path, panel):
    flags, theirs = flags_and_reference(panel, "HC3")
    fused = ("fit", "--config", CONFIGS / "table.yaml", "--model", "Fused", "--model.lr", 0.01, *flags)
    run = in_process(tmp_path, *fused, "--trainer.max_epochs", 1, "--guard", "false").run
    again = (*fused, "--ckpt_path", run / "checkpoints/last.ckpt", "--trainer.max_epochs", 2)
    in_process(tmp_path, *again, "--guard", "false")
    errors = [row["standard_error"] for row in reports.read(run.with_name("version_1"))["coefficients"]]
    np.testing.assert_allclose(errors, theirs.bse, rtol=1e-8)
    in_process(tmp_path, *again[:-1], 3, "--covariance", "classical", "--guard", "false")
    last = reports.read(run.with_name("version_2"))
    assert last["covariance"] == "classical"
    classical = expected(panel[1], "y", None, list("abcde"))
    np.testing.assert_allclose([row["standard_error"] for row in last["coefficients"]], classical.bse, rtol=1e-8)


REFUSED = {
    "no columns": (("--covariance", "cluster"), "--data.clusters '[firm]'"),
    "target": (("--covariance", "cluster", "--data.clusters", "[y]"), "'y' is given twice, or is the target"),
    "target among two": (("--covariance", "cluster", "--data.clusters", "[y, firm]"), "'y' is given twice"),
    "three": (("--covariance", "cluster", "--data.clusters", "[a, b, c]"), "3 columns; give one, or two"),
    "unknown column": (("--covariance", "cluster", "--data.clusters", "[frim]"), "did you mean 'firm'?"),
    "one cluster": (("--covariance", "cluster", "--data.clusters", "[same]"), "'same' has one cluster only"),
    "too many": (("--covariance", "cluster", "--data.clusters", "[a]", "--data.memory", 1), "MiB or more; raise"),
    "missing": (("--covariance", "cluster", "--data.clusters", "[gap]"), "column 'gap', row 3: a row without a"),
    "penalty": (("--covariance", "HC3", "--model.ridge", 1), "--covariance HC3: with a penalty"),
    "unknown": (("--covariance", "HC4"), "HC4"),
}


@pytest.mark.parametrize(("flags", "sentence"), REFUSED.values(), ids=REFUSED)
def test_refused_with_a_sentence(tmp_path, panel, flags, sentence):
    frame = panel[1].assign(same=1, gap=panel[1]["firm"])
    frame.loc[2, "gap"] = None
    frame.to_parquet(tmp_path / "t.parquet")
    table = ("--data.path", "t.parquet", "--data.target", "y", "--data.features", "[a, b, c, d]")
    outcome = in_process(tmp_path, *EXACT, *table, *flags)
    assert outcome.status != 0
    assert sentence in outcome.stderr
    assert outcome.stderr.count("\n") == 1
