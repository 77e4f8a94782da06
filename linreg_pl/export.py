"""A finished run as a model file, which takes the table's own units and needs none of this program."""

import importlib
import io
import json
import math
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import nn

from linreg_pl.checkpoints import load_checkpoint
from linreg_pl.data.columns import Columns
from linreg_pl.errors import InputError
from linreg_pl.files import write_whole

NAMES_SHOWN = 20


@dataclass
class Line:
    """A fitted line in the table's own units.

    Attributes:
        target: name of y.
        weights: coefficients of the columns of X, by their names.
        intercept: the bias, 0 where the model has none.
        columns: how the columns of a table become the columns of X.
        kinds: what each column of a table holds: "numbers", "times" or "levels".
    """

    target: str
    weights: dict[str, float]
    intercept: float
    columns: Columns
    kinds: dict[str, str]

    @property
    def time_unit(self) -> str:
        """What dates and times are counted in."""
        return f"{self.columns.time_unit} since 1970-01-01 00:00 UTC"

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself where the format has a place for it; names are a JSON list."""
        return {"feature_names": json.dumps(list(self.weights)), "target": self.target}


class Parser(ArgumentParser):
    """Parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"export: {message}; use it as in python train.py export runs/NAME/version_N --format json")


def command(arguments: list[str]) -> None:
    """Export as the command line says, and print where to and how to use it.

    Raises:
        InputError: wrong arguments, no finished run, a package that is missing, or a file that cannot be written.
    """
    parser = Parser("train.py export", description="Turn a finished run into a model file.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run, runs/NAME/version_N")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)}; by default what the ending of FILE says, else json")
    parser.add_argument("--output", metavar="FILE", type=Path, help="by default model.FORMAT in the run's folder")
    given = parser.parse_args(arguments)
    by_suffix = {form.suffix: name for name, form in FORMATS.items()}
    name = given.format or by_suffix.get(given.output.suffix if given.output else "", "json")
    if name not in FORMATS:
        raise InputError(f"--format {name}: choose one of {', '.join(FORMATS)}")
    form, line = FORMATS[name], read(given.run)
    path = given.output or given.run / f"model{form.suffix}"
    write_whole(path, form.encode(line))
    print(f"model in {path}")
    print(form.usage.format(path=str(path), columns=_describe_columns(line)), flush=True)


def read(run: Path) -> Line:
    """Read the last checkpoint of a run.

    Raises:
        InputError: there is none, or one whose coefficients cannot be used.
    """
    path = run / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise InputError(f"{run}: holds no checkpoints/last.ckpt; give the folder of a run, runs/NAME/version_N")
    checkpoint = load_checkpoint(path, flag="")
    try:
        return _line(path, checkpoint)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a checkpoint of this program") from error


def _line(path: Path, checkpoint: dict[str, Any]) -> Line:
    states = (value for value in checkpoint.values() if isinstance(value, dict) and "feature_names" in value)
    data, found = next(states, None), checkpoint.get("coefficients")
    if data is None or found is None:
        raise InputError(f"{path}: holds no coefficients: the fit stopped within its pass; fit anew")
    names, has_bias = data["feature_names"], checkpoint.get("hyper_parameters", {}).get("bias", "bias" in found)
    expected = [*names, "bias"] if has_bias else names
    for name, count in Counter(expected).items():
        if count > 1:  # the checkpoint has only one of them
            raise InputError(f"{path}: two coefficients are named {name!r}; rename a column and fit anew")
        if not math.isfinite(found[name]):
            raise InputError(f"{path}: the coefficient of {name!r} is {found[name]}; the fit diverged")
    return Line(
        data["target_name"],
        {name: found[name] for name in names},
        found["bias"] if has_bias else 0.0,
        Columns(**data["columns"]) if "columns" in data else Columns(names),
        data.get("kinds", dict.fromkeys(names, "numbers")),
    )


def as_json(line: Line) -> bytes:
    """Everything needed to predict, also from levels, times and missing values, in text."""
    content = {
        "format": "linreg_pl",
        "version": 1,
        "target": line.target,
        "intercept": line.intercept,
        "features": [_describe(line, name) for name in line.columns.features],
        "missing": line.columns.missing,
        "unknown": line.columns.unknown,
    }
    return (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _describe(line: Line, name: str) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name, "kind": line.kinds[name]}
    if name in line.columns.levels:
        reference, *others = line.columns.levels[name]
        coefficients = {level: line.weights[f"{name}={level}"] for level in others}
        return result | {"reference": reference, "coefficients": coefficients}
    if line.kinds[name] == "times":
        result["unit"] = line.time_unit
    result["coefficient"] = line.weights[name]
    if name in line.columns.means:
        result["mean_if_missing"] = line.columns.means[name]
    return result


def as_onnx(line: Line) -> bytes:
    """A graph of one node: ``X (n, P)`` to ``prediction (n, 1)``, float64."""
    onnx = _package("onnx", "onnx", "onnx")
    helper, double = onnx.helper, onnx.TensorProto.DOUBLE
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["X", "weight", "intercept"], ["prediction"])],
        "linear_regression",
        [helper.make_tensor_value_info("X", double, ["n", len(line.weights)])],
        [helper.make_tensor_value_info("prediction", double, ["n", 1])],
        [
            helper.make_tensor("weight", double, [len(line.weights), 1], list(line.weights.values())),
            helper.make_tensor("intercept", double, [1], [line.intercept]),
        ],
    )
    # Versions of 2022, which every runtime in use reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, line.metadata)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def as_pt2(line: Line) -> bytes:
    """An `nn.Linear` in float64, as torch.export writes it, for any number of rows."""
    linear = nn.Linear(len(line.weights), 1, dtype=torch.float64)
    linear.weight.data[0] = torch.tensor(list(line.weights.values()), dtype=torch.float64)
    linear.bias.data.fill_(line.intercept)
    example = torch.zeros(2, len(line.weights), dtype=torch.float64)  # one row would be taken for a constant
    program = torch.export.export(linear.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=line.metadata)
    return file.getvalue()


def as_sklearn(line: Line) -> bytes:
    """A fitted `sklearn.linear_model.LinearRegression`, as joblib writes it."""
    model = _package("sklearn", "sklearn.linear_model", "scikit-learn").LinearRegression()
    model.coef_, model.intercept_ = np.array(list(line.weights.values())), line.intercept
    model.feature_names_in_, model.n_features_in_ = np.array(list(line.weights), dtype=object), len(line.weights)
    file = io.BytesIO()
    importlib.import_module("joblib").dump(model, file)  # which scikit-learn brings along
    return file.getvalue()


class Format(NamedTuple):
    """A kind of file: its ending, what makes its content, and how to use it."""

    suffix: str
    encode: Callable[[Line], bytes]
    usage: str


FORMATS = {
    "json": Format(
        ".json",
        as_json,
        "in any language: intercept + the sum of coefficient * value, of coefficients[level] for levels (reference: 0)",
    ),
    "onnx": Format(
        ".onnx", as_onnx, 'onnxruntime.InferenceSession({path!r}).run(None, {{"X": X}})[0]  # X float64, {columns}'
    ),
    "pt2": Format(".pt2", as_pt2, "torch.export.load({path!r}).module()(X)  # X float64, {columns}"),
    "sklearn": Format(".joblib", as_sklearn, "joblib.load({path!r}).predict(X)  # X a data frame, {columns}"),
}


def _describe_columns(line: Line) -> str:
    shown = [
        f"{name!r} ({line.time_unit})" if line.kinds.get(name) == "times" else repr(name)
        for name in list(line.weights)[:NAMES_SHOWN]
    ]
    if left := len(line.weights) - len(shown):
        shown.append(f"and {left} more")
    return f"{'column' if len(line.weights) == 1 else 'columns'} {', '.join(shown)}"


def _package(name: str, module: str, package: str) -> Any:
    """Import what a format needs and the rest of this program does not."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f'--format {name} needs the package {package}: python -m pip install "linreg_pl[{name}]"'
        ) from error
