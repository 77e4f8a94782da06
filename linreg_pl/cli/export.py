"""Exports a finished run as a model file that predicts from the table's own units, without this program."""

import importlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from linreg_pl.cli.arguments import CommandParser
from linreg_pl.errors import InputError
from linreg_pl.files import atomic_write
from linreg_pl.runs.checkpoints import load_last
from linreg_pl.tables.columns import Columns
from linreg_pl.tables.formula import saved_columns

NAMES_SHOWN = 20


@dataclass
class LinearPredictor:
    """A fitted model in the table's own units."""

    target: str
    weights: dict[str, float]  # by the names of the columns of X
    intercept: float  # 0 if the model has none
    columns: Columns  # how the columns of a table become the columns of X
    kinds: dict[str, str]  # of the features: "numbers", "times" or "levels" of a table, or "expression" of a formula
    formula: str | None  # what makes the columns of X, if one does

    @property
    def time_unit(self) -> str:
        """The unit in which dates and times are counted."""
        return f"{self.columns.time_unit} since 1970-01-01 00:00 UTC"

    @property
    def metadata(self) -> dict[str, str]:
        """Names of the features (a JSON list) and of the target, for formats with a place for metadata."""
        return {"feature_names": json.dumps(list(self.weights)), "target": self.target}


def command(arguments: list[str]) -> None:
    """Run ``python train.py export`` with these arguments: write a model file, and print how to use it."""
    parser = CommandParser("export", "Write the model of a finished run into a file.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run, runs/NAME/version_N")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)} (default: by the suffix of FILE, else json)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: model.FORMAT in the run's folder")
    given = parser.parse_args(arguments)
    by_suffix = {form.suffix: name for name, form in FORMATS.items()}
    name = given.format or by_suffix.get(given.output.suffix if given.output else "", "json")
    if name not in FORMATS:
        raise InputError(f"--format {name}: choose one of {', '.join(FORMATS)}")
    form, predictor = FORMATS[name], read(given.run)
    path = given.output or given.run / f"model{form.suffix}"
    atomic_write(path, form.encode(predictor))
    print(f"model in {path}")
    print(form.usage.format(path=str(path), columns=_describe_columns(predictor)), flush=True)
    if predictor.formula is not None:
        print(f"it takes the columns that the formula makes, {predictor.formula}, and does not make them itself")


def read(run: Path) -> LinearPredictor:
    """Read the model of a run from its last checkpoint."""
    path, checkpoint = load_last(run)
    try:
        return _predictor(path, checkpoint)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a checkpoint of this program") from error


def _predictor(path: Path, checkpoint: dict[str, Any]) -> LinearPredictor:
    states = (value for value in checkpoint.values() if isinstance(value, dict) and "feature_names" in value)
    data, found = next(states, None), checkpoint.get("coefficients")
    if data is None or found is None:
        raise InputError(f"{path}: holds no coefficients: the fit was not finished; fit again")
    names, has_bias = data["feature_names"], checkpoint.get("hyper_parameters", {}).get("bias", "bias" in found)
    expected = [*names, "bias"] if has_bias else names
    for name, count in Counter(expected).items():
        if count > 1:  # the checkpoint holds only one of them
            raise InputError(f"{path}: two coefficients are named {name!r}; rename a column and fit again")
        if not math.isfinite(found[name]):
            raise InputError(f"{path}: the coefficient of {name!r} is {found[name]}; the fit diverged")
    columns = saved_columns(data["columns"]) if "columns" in data else Columns(names)
    kinds, formula = data.get("kinds", dict.fromkeys(names, "numbers")), columns.text
    if formula is not None:  # for whoever has the file, its columns are numbers
        columns = Columns(names, missing=columns.missing, unknown=columns.unknown)
        kinds = dict.fromkeys(names, "expression")
    bias = found["bias"] if has_bias else 0.0
    return LinearPredictor(data["target_name"], {name: found[name] for name in names}, bias, columns, kinds, formula)


def as_json(predictor: LinearPredictor) -> bytes:
    """Return JSON with all that is needed to predict, also from levels, dates and missing values."""
    content = {
        "format": "linreg_pl",
        "version": 1,
        "target": predictor.target,
        "intercept": predictor.intercept,
        "features": [_feature(predictor, name) for name in predictor.columns.features],
        "missing": predictor.columns.missing,
        "unknown": predictor.columns.unknown,
    }
    return (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _feature(predictor: LinearPredictor, name: str) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name, "kind": predictor.kinds[name]}
    if name in predictor.columns.levels:
        reference, *others = predictor.columns.levels[name]
        coefficients = {level: predictor.weights[f"{name}={level}"] for level in others}
        return result | {"reference": reference, "coefficients": coefficients}
    if predictor.kinds[name] == "times":
        result["unit"] = predictor.time_unit
    result["coefficient"] = predictor.weights[name]
    if name in predictor.columns.means:
        result["mean_if_missing"] = predictor.columns.means[name]
    return result


def as_onnx(predictor: LinearPredictor) -> bytes:
    """Return an ONNX graph of one node, from ``X (n, P)`` to ``prediction (n, 1)``, in float64."""
    onnx = _package("onnx", "onnx", "onnx")
    helper, double = onnx.helper, onnx.TensorProto.DOUBLE
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["X", "weight", "intercept"], ["prediction"])],
        "linear_regression",
        [helper.make_tensor_value_info("X", double, ["n", len(predictor.weights)])],
        [helper.make_tensor_value_info("prediction", double, ["n", 1])],
        [
            helper.make_tensor("weight", double, [len(predictor.weights), 1], list(predictor.weights.values())),
            helper.make_tensor("intercept", double, [1], [predictor.intercept]),
        ],
    )
    # These versions are of 2022, so that every current runtime reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, predictor.metadata)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def as_pt2(predictor: LinearPredictor) -> bytes:
    """Return an `nn.Linear` in float64 for any number of rows, as written by torch.export."""
    linear = nn.Linear(len(predictor.weights), 1, dtype=torch.float64)
    linear.weight.data[0] = torch.tensor(list(predictor.weights.values()), dtype=torch.float64)
    linear.bias.data.fill_(predictor.intercept)
    example = torch.zeros(2, len(predictor.weights), dtype=torch.float64)  # with one row, n would become the constant 1
    program = torch.export.export(linear.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=predictor.metadata)
    return file.getvalue()


def as_sklearn(predictor: LinearPredictor) -> bytes:
    """Return a fitted `sklearn.linear_model.LinearRegression`, as written by joblib."""
    model = _package("sklearn", "sklearn.linear_model", "scikit-learn").LinearRegression()
    model.coef_, model.intercept_ = np.array(list(predictor.weights.values())), predictor.intercept
    model.feature_names_in_ = np.array(list(predictor.weights), dtype=object)
    model.n_features_in_ = len(predictor.weights)
    file = io.BytesIO()
    importlib.import_module("joblib").dump(model, file)  # scikit-learn depends on joblib
    return file.getvalue()


class Format(NamedTuple):
    """A file format: its suffix, the function that encodes a model, and how to use the file."""

    suffix: str
    encode: Callable[[LinearPredictor], bytes]
    usage: str


FORMATS = {
    "json": Format(
        ".json",
        as_json,
        "in any language: intercept + sum of coefficient * value, or of coefficients[level] for levels (reference: 0)",
    ),
    "onnx": Format(
        ".onnx", as_onnx, 'onnxruntime.InferenceSession({path!r}).run(None, {{"X": X}})[0]  # X float64, {columns}'
    ),
    "pt2": Format(".pt2", as_pt2, "torch.export.load({path!r}).module()(X)  # X float64, {columns}"),
    "sklearn": Format(".joblib", as_sklearn, "joblib.load({path!r}).predict(X)  # X a data frame, {columns}"),
}


def _describe_columns(predictor: LinearPredictor) -> str:
    shown = [
        f"{name!r} ({predictor.time_unit})" if predictor.kinds.get(name) == "times" else repr(name)
        for name in list(predictor.weights)[:NAMES_SHOWN]
    ]
    if left := len(predictor.weights) - len(shown):
        shown.append(f"and {left} more")
    return f"{'column' if len(predictor.weights) == 1 else 'columns'} {', '.join(shown)}"


def _package(name: str, module: str, package: str) -> Any:
    """Import a package that only this format needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f'--format {name} needs the package {package}: python -m pip install "linreg_pl[{name}]"'
        ) from error
