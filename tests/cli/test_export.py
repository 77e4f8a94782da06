"""Exported models predict what ``predict`` does, from the table's own units."""

import csv
import datetime
import json
import sys
from typing import NamedTuple

import joblib
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from tests.support.commands import CONCISE, CONFIGS, SCRATCH, TABLE, Outcome, in_process

EXACT = CONFIGS / "exact.yaml"
FILES = {"json": "model.json", "onnx": "model.onnx", "pt2": "model.pt2", "sklearn": "model.joblib"}
ODD = {'grö"ße,\n1': "a column\nof lines", "🦆\t{x}": "ducks", "it's=\\": "a backslash"}


class Case(NamedTuple):
    """A finished run, the rows it predicted, and how near an export comes."""

    fit: Outcome
    X: pd.DataFrame  # the design matrix, made here
    rows: list  # the table's, as a reader of CSV gives them
    rtol: float

    @property
    def expected(self):
        return parquet.read_table(self.fit.run / "predictions.parquet")["prediction"].to_numpy()


def predicted(cwd, *flags, new=()):
    """Fit, and predict the same rows or new ones."""
    fit = in_process(cwd, "fit", *flags).succeeded()
    files = ("--config", fit.run / "config.yaml", "--ckpt_path", fit.run / "checkpoints/last.ckpt")
    in_process(cwd, "predict", *files, *new).succeeded()
    return fit


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def penguins(folder):
    """Numbers, levels and dates."""
    random = np.random.default_rng(0)
    size, island = random.normal(200, 10, 150), random.choice(["Torgersen", "Biscoe", "Dream"], 150)
    day = [datetime.date(2007, 11, 1) + datetime.timedelta(int(days)) for days in random.integers(0, 900, 150)]
    mass = 50 * size + 100 * (island == "Dream") - 300 * (island == "Torgersen") + random.normal(0, 50, 150)
    table = pd.DataFrame({"size": size, "island": island, "day": day, "mass": mass})
    table.to_csv(folder / "penguins.csv", index=False)
    count = [(date - datetime.date(1970, 1, 1)).days for date in day]
    columns = {"size": size, "island=Dream": island == "Dream", "island=Torgersen": island == "Torgersen", "day": count}
    return pd.DataFrame(columns, dtype=np.float64)


def mixed(folder):
    X = penguins(folder)
    flags = ("--data.features", "[size, island, day]", "--data.categorical", "[island]")
    table = ("--config", EXACT, "--data", "Table", "--data.path", "penguins.csv", "--data.target", "mass")
    return Case(predicted(folder, *table, *flags), X, read_rows(folder / "penguins.csv"), 1e-12)


def standardised(folder):
    """Columns of unequal scales, standardised, and fitted by SGD."""
    random = np.random.default_rng(1)
    area, rooms = random.normal(120, 30, 200), random.integers(1, 7, 200)
    price = 1500 * area - 8000 * rooms + 500_000
    pd.DataFrame({"area": area, "rooms": rooms, "price": price}).to_csv(folder / "houses.csv", index=False)
    flags = ("--data.path", "houses.csv", "--data.target", "price", "--trainer.max_epochs", 20)
    X = pd.DataFrame({"area": area, "rooms": rooms}, dtype=np.float64)
    return Case(predicted(folder, "--config", TABLE, *flags), X, read_rows(folder / "houses.csv"), 1e-6)


def drawn(folder, *flags, rtol=1e-6):
    from linreg_pl.data.synthetic import Synthetic

    X = Synthetic().raw("predict")[0].double().numpy()
    X = pd.DataFrame(X, columns=["x0", "x1"])
    return Case(predicted(folder, *flags), X, X.to_dict("records"), rtol)


CASES = {
    "mixed": mixed,
    "standardised": standardised,
    "scratch": lambda folder: drawn(folder, "--config", SCRATCH),
    "no bias": lambda folder: drawn(folder, "--config", EXACT, "--model.bias", "false", rtol=1e-12),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A run of each kind: it takes exports, each of which replaces the one before."""
    return CASES[request.param](tmp_path_factory.mktemp("export"))


def export(outcome, name, *flags):
    """Export the only run; the file."""
    done = in_process(outcome.cwd, "export", outcome.run, "--format", name, *flags).succeeded()
    where, usage = done.stdout.splitlines()
    path = outcome.run / FILES[name]
    assert where == f"model in {path}"
    assert name == "json" or repr(str(path)) in usage
    assert not list(outcome.run.glob("*.tmp*"))
    return path


def evaluate(model, row):
    """Predict a row of text from ``model.json`` alone."""
    result = model["intercept"]
    for feature in model["features"]:
        value = row[feature["name"]]
        if feature["kind"] == "levels":
            assert value in (feature["reference"], *feature["coefficients"]) or model["unknown"] == "ignore"
            result += feature["coefficients"].get(value, 0)
        elif value in ("", None):
            result += feature["coefficient"] * feature["mean_if_missing"]
        elif feature["kind"] == "times":
            assert feature["unit"] == "days since 1970-01-01 00:00 UTC"
            result += feature["coefficient"] * (datetime.date.fromisoformat(value) - datetime.date(1970, 1, 1)).days
        else:
            result += feature["coefficient"] * float(value)
    return result


def load_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def near(case):
    """Of numbers that may cancel, as near as the largest of them allows."""
    return {"rtol": case.rtol, "atol": case.rtol * np.abs(case.expected).mean()}


def test_json_predicts(case):
    model = load_json(export(case.fit, "json"))
    assert (model["format"], model["version"]) == ("linreg_pl", 1)
    np.testing.assert_allclose([evaluate(model, row) for row in case.rows], case.expected, **near(case))


def test_onnx_predicts(case):
    session = onnxruntime.InferenceSession(export(case.fit, "onnx"), providers=["CPUExecutionProvider"])
    X = case.X.to_numpy()
    for count in (len(X), 1, 2, 0):
        (prediction,) = session.run(None, {"X": X[:count]})
        assert (prediction.shape, prediction.dtype) == ((count, 1), np.float64)
        np.testing.assert_allclose(prediction[:, 0], case.expected[:count], **near(case))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["feature_names"]) == list(case.X.columns)


def test_pt2_predicts(case):
    extra = {"feature_names": "", "target": ""}
    module = torch.export.load(export(case.fit, "pt2"), extra_files=extra).module()
    X = torch.tensor(case.X.to_numpy())
    for count in (len(X), 1, 2):
        prediction = module(X[:count])
        assert (prediction.shape, prediction.dtype) == ((count, 1), torch.float64)
        np.testing.assert_allclose(prediction[:, 0].detach(), case.expected[:count], **near(case))
    assert json.loads(extra["feature_names"]) == list(case.X.columns)


def test_sklearn_predicts(case):
    model = joblib.load(export(case.fit, "sklearn"))
    np.testing.assert_allclose(model.predict(case.X), case.expected, **near(case))
    assert model.feature_names_in_.tolist() == list(case.X.columns)
    assert model.n_features_in_ == len(case.X.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(case.X[case.X.columns[::-1]])


def test_intercept_is_zero_without_bias(tmp_path):
    case = CASES["no bias"](tmp_path)
    assert load_json(export(case.fit, "json"))["intercept"] == 0
    assert joblib.load(export(case.fit, "sklearn")).intercept_ == 0


@pytest.fixture(scope="module")
def island(tmp_path_factory):
    """A run on a table with levels and dates; do not touch its checkpoint."""
    return mixed(tmp_path_factory.mktemp("island")).fit


def test_json_has_every_digit(island):
    model = load_json(export(island, "json"))
    levels = {f"island={level}": value for level, value in model["features"][1].pop("coefficients").items()}
    numbers = {
        feature["name"]: feature.get("coefficient") for feature in model["features"] if feature["name"] != "island"
    }
    assert numbers | levels | {"bias": model["intercept"]} == island.last["coefficients"]
    assert model["features"][1] == {"name": "island", "kind": "levels", "reference": "Biscoe"}
    assert (model["target"], model["missing"], model["unknown"]) == ("mass", "error", "error")


def test_usage_names_the_columns(island):
    done = in_process(island.cwd, "export", island.run, "--format", "pt2").succeeded()
    columns = "'size', 'island=Dream', 'island=Torgersen', 'day' (days since 1970-01-01 00:00 UTC)"
    assert done.stdout.splitlines()[1].endswith(f"  # X float64, columns {columns}")


def test_output_is_written_to_the_given_path(island, tmp_path):
    for form, name in (("json", "a.txt"), ("onnx", "b.bin"), ("pt2", "c.bin"), ("sklearn", "d.bin")):
        done = in_process(tmp_path, "export", island.run, "--format", form, "--output", name).succeeded()
        assert done.stdout.startswith(f"model in {name}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.bin", "c.bin", "d.bin"]
    assert load_json(tmp_path / "a.txt")["format"] == "linreg_pl"


def test_ending_of_the_output_tells_the_format(island, tmp_path):
    in_process(tmp_path, "export", island.run, "--output", "model.onnx").succeeded()
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    assert load_json(export(island, "json"))
    in_process(tmp_path, "export", island.run, "--output", "model").succeeded()
    assert load_json(tmp_path / "model")


def test_means_and_unknown_levels_of_new_rows(tmp_path):
    penguins(tmp_path)
    flags = ("--data.features", "[size, island]", "--data.categorical", "[island]", "--data.missing", "mean")
    table = ("--config", EXACT, "--data", "Table", "--data.path", "penguins.csv", "--data.target", "mass")
    (tmp_path / "new.csv").write_text("island,size,mass\nDream,,0\nAdelaide,190,0\nBiscoe,210,0\n")
    new = ("--data.path", "new.csv")
    fit = predicted(tmp_path, *table, *flags, "--data.unknown", "ignore", new=new)
    model = load_json(export(fit, "json"))
    rows = read_rows(tmp_path / "new.csv")
    case = Case(fit, None, rows, 1e-12)
    size = [float(row["size"]) for row in read_rows(tmp_path / "penguins.csv")]
    assert model["features"][0]["mean_if_missing"] == pytest.approx(np.mean(size), rel=1e-12)
    np.testing.assert_allclose([evaluate(model, row) for row in rows], case.expected, **near(case))


@pytest.fixture
def odd(tmp_path):
    """A run whose columns and levels have names of all kinds."""
    random = np.random.default_rng(2)
    names = list(ODD)
    columns = {name: random.normal(size=60) for name in names}
    columns["Straße\n"] = random.choice(['"', "ä\n", "=", "🦆"], 60)
    columns["y"] = random.normal(10, 1, 60)
    parquet.write_table(pa.table(columns), tmp_path / "odd.parquet")
    table = ("--config", EXACT, "--data", "Table", "--data.path", "odd.parquet", "--data.target", "y")
    fit = predicted(tmp_path, *table, "--data.categorical", json.dumps(["Straße\n"]))
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    X = pd.DataFrame({name: columns[name] for name in names})
    for level in sorted(set(columns["Straße\n"]))[1:]:
        X[f"Straße\n={level}"] = (columns["Straße\n"] == level).astype(np.float64)
    return Case(fit, X, rows, 1e-12)


def test_odd_names_survive(odd):
    model = load_json(export(odd.fit, "json"))
    assert [feature["name"] for feature in model["features"]] == [*ODD, "Straße\n"]
    np.testing.assert_allclose([evaluate(model, row) for row in odd.rows], odd.expected, **near(odd))
    fitted = joblib.load(export(odd.fit, "sklearn"))
    np.testing.assert_allclose(fitted.predict(odd.X), odd.expected, **near(odd))
    properties = onnx.load(export(odd.fit, "onnx")).metadata_props
    assert json.loads({entry.key: entry.value for entry in properties}["feature_names"]) == list(odd.X.columns)
    extra = {"feature_names": ""}
    torch.export.load(export(odd.fit, "pt2"), extra_files=extra)
    assert json.loads(extra["feature_names"]) == list(odd.X.columns)


def refused(outcome):
    """The one sentence of an outcome that is an error."""
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr.removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("form", "module", "package"), [("onnx", "onnx", "onnx"), ("sklearn", "sklearn.linear_model", "scikit-learn")]
)
def test_missing_package_is_named(island, monkeypatch, form, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    sentence = refused(in_process(island.cwd, "export", island.run, "--format", form))
    assert sentence == f'--format {form} needs the package {package}: python -m pip install "linreg_pl[{form}]"'


def test_json_needs_no_package(island, monkeypatch):
    for module in ("onnx", "sklearn.linear_model", "joblib"):
        monkeypatch.setitem(sys.modules, module, None)
    export(island, "json")
    export(island, "pt2")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: RUN; see python train.py export --help"),
        (("RUN", "--frmt", "json"), "unrecognized arguments: --frmt json; see python train.py export --help"),
        (("RUN", "--form", "json"), "unrecognized arguments: --form json; see python train.py export --help"),
        (("RUN", "RUN"), "unrecognized arguments: "),
        (("RUN", "--format", "pickle"), "--format pickle: choose one of json, onnx, pt2, sklearn"),
        (("nowhere",), "nowhere: holds no checkpoints/last.ckpt; give the folder of a run, runs/NAME/version_N"),
        (("RUN", "--output", "no/where.json"), "no/where.json: cannot be written (No such file or directory)"),
        (("RUN", "--output", "a file/x.json"), "a file/x.json: cannot be written (Not a directory)"),
        (("RUN", "--output", "."), ".: cannot be written "),
    ],
)
def test_errors_are_one_sentence(island, tmp_path, arguments, sentence):
    (tmp_path / "a file").touch()
    arguments = [island.run if word == "RUN" else word for word in arguments]
    assert refused(in_process(tmp_path, "export", *arguments)).startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def damaged(fit, folder, change):
    """A copy of a run's checkpoint with something changed."""
    checkpoint = fit.last
    change(checkpoint)
    (folder / "checkpoints").mkdir()
    torch.save(checkpoint, folder / "checkpoints/last.ckpt")
    return refused(in_process(folder, "export", "."))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: c.pop("coefficients"),
            "holds no coefficients: the fit was not finished; fit again",
        ),
        (lambda c: c["coefficients"].update(size=float("nan")), "the coefficient of 'size' is nan; the fit diverged"),
        (lambda c: c["Table"]["feature_names"].append("bias"), "two coefficients are named 'bias'; rename a column"),
        (lambda c: c.pop("state_dict"), "is not a checkpoint of this program"),
    ],
)
def test_checkpoint_that_cannot_be_used_is_refused(island, tmp_path, change, sentence):
    assert damaged(island, tmp_path, change).startswith(f"checkpoints/last.ckpt: {sentence}")


def test_failed_export_keeps_the_previous_file(island, tmp_path):
    in_process(tmp_path, "export", island.run, "--output", "model.json").succeeded()
    before = (tmp_path / "model.json").read_bytes()
    refused(in_process(tmp_path, "export", tmp_path, "--output", "model.json"))
    assert (tmp_path / "model.json").read_bytes() == before


@pytest.mark.parametrize("config", [CONCISE, CONFIGS / "fused.yaml"], ids=["concise", "fused"])
def test_every_model_can_be_exported(tmp_path, config):
    fit = in_process(tmp_path, "fit", "--config", config, "--trainer.max_epochs", 1).succeeded()
    model = load_json(export(fit, "json"))
    assert {f["name"]: f["coefficient"] for f in model["features"]} | {"bias": model["intercept"]} == fit.coefficients
