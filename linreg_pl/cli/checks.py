"""What the command line refuses before a run begins, and what it takes over from a checkpoint."""

import inspect
import sys
from pkgutil import resolve_name
from typing import Any, get_args

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from linreg_pl.cli.parser import arguments_of
from linreg_pl.data import DataModule
from linreg_pl.data.base import other_columns
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.models import LinearModel
from linreg_pl.tables import Columns
from linreg_pl.tables.expressions import read_formula

FLOAT32 = ("32-true", "32", 32)  # the Trainer's default precision, by its names
REFUSED_FLAGS = {
    "barebones": "would leave no report; use --trainer.logger false, which writes no files",
    "strategy": "a linear model is too small to be split over devices; use ddp, which splits the rows",
}


def refuse_null(settings: Namespace) -> None:
    """Refuse null for arguments that have no such value, which the parser lets through."""
    for group in ("model", "data"):
        for name, value in vars(settings[group].init_args).items():
            annotation = arguments_of(resolve_name(settings[group].class_path))[name].annotation
            if name == "num_features":
                if value is not None:
                    raise InputError(f"--model.num_features {value}: is taken from the data; leave it out")
            elif value is None and type(None) not in get_args(annotation):
                raise InputError(f"--{group}.{name} null: needs a value")


def check_flags(settings: Namespace) -> None:
    """Refuse Trainer flags that cannot work here or with the chosen model."""
    trainer, model = settings.trainer, settings.model
    kind: type[LinearModel] = resolve_name(model.class_path)
    strategy = trainer.strategy
    name = strategy if isinstance(strategy, str) else strategy.class_path.rsplit(".", 1)[-1].lower()
    refused = kind.refused_flags | REFUSED_FLAGS  # as they were typed, before a Trainer turns them into its own words
    if name.startswith(("auto", "ddp", "single")):
        del refused["strategy"]
    for flag, reason in refused.items():
        value, usual = trainer[flag], inspect.signature(Trainer).parameters[flag].default
        if value != usual and not (flag == "precision" and value in FLOAT32):
            shown = f"{value:g}" if isinstance(value, float) else value  # the parser may make 1.0 of 1
            raise InputError(f"--trainer.{flag} {shown}: {reason}")
    for flag in ("val_check_interval", "check_val_every_n_epoch"):
        if isinstance(trainer[flag], (int, float)):
            require_positive(f"--trainer.{flag}", trainer[flag])
    require_not_negative("--trainer.log_every_n_steps", trainer.log_every_n_steps or 0)
    if 0 < float(trainer.overfit_batches) < 1:
        raise InputError(
            f"--trainer.overfit_batches {trainer.overfit_batches}: validation rows come as one batch, which cannot"
            " be divided; give a number of mini-batches"
        )
    if not kind.wants_raw and settings.data.init_args.get("standardize") and not model.init_args.bias:
        raise InputError(
            "--model.bias false with --data.standardize true: standardising centres the columns, which is an"
            " intercept in disguise; set --data.standardize false"
        )


def check_covariance(settings: Namespace, model: LinearModel, data: DataModule) -> None:
    """Refuse a covariance or diagnostics where there are no standard errors, and clusters without columns."""
    kind = settings.covariance
    if kind == "classical" and not settings.diagnostics:
        return
    flag = f"--covariance {kind}" if kind != "classical" else "--diagnostics true"
    if model.biased_objective:
        raise InputError(
            f"{flag}: with a penalty, or another loss than the squared error, there are no standard"
            " errors; leave the flag out"
        )
    if not settings.optimum and model.served != "factors":
        raise InputError(f"{flag}: is that of the optimum; leave --optimum false out")
    if kind == "cluster" and not data.clusters:
        raise InputError("--covariance cluster: needs the columns that make clusters, --data.clusters '[firm]'")


def take_columns(arguments: Namespace, checkpoint: dict[str, Any]) -> None:
    """Read a table as the one that the checkpoint was made with, unless the arguments say otherwise."""
    columns = checkpoint.get("Table", {}).get("columns")
    if columns is None or "features" not in arguments:
        return
    if "formula" in columns:
        arguments.formula = columns
    else:
        arguments.features = arguments.features or columns["features"]
        arguments.categorical = arguments.categorical or list(columns["levels"])
        arguments.levels = arguments.levels or columns["levels"] or None
    for name in ("missing", "unknown", "time_unit"):
        if arguments[name] == getattr(Columns, name):
            arguments[name] = columns[name]


def take_formula(settings: Namespace) -> None:
    """Let a formula say what the target is, rather than a config, and whether the model has an intercept."""
    data, model = settings.data.init_args, settings.model.init_args
    if not isinstance(data.get("formula"), str):
        return
    if not any(word.startswith("--data.target") for word in sys.argv):
        data.target = None
    if "bias" in model and not read_formula(data.formula, ("_",)).has_intercept:
        model.bias = False


def check_checkpoint(path: str, checkpoint: dict[str, Any], model: LinearModel, data: DataModule, fits: bool) -> None:
    """Refuse a checkpoint of other model or data than the arguments describe, or that holds nothing of use."""
    kind = type(model).__name__
    if checkpoint.get("model", kind) != kind:
        raise InputError(f"--ckpt_path {path}: was made by --model {checkpoint['model']}, not {kind}")
    if not fits and "coefficients" not in checkpoint:
        raise InputError(f"--ckpt_path {path}: holds no coefficients: the fit stopped within its pass; start a new fit")
    state = checkpoint.get(type(data).__name__)
    if not isinstance(state, dict) or "feature_names" not in state:
        raise InputError(f"--ckpt_path {path}: was made with other data than {type(data).__name__}")
    if sorted(state["feature_names"]) != sorted(data.feature_names):
        raise other_columns(state["feature_names"], data.feature_names, f"--ckpt_path {path}")
    saved = checkpoint.get("hyper_parameters", {})
    for name, value in model.hparams.items():
        if name in saved and value not in (saved[name], "auto"):
            raise InputError(
                f"--model.{name} {value}: {path} was made with {saved[name]}; leave the flag out, or start a"
                " new fit without --ckpt_path"
            )
    held = {name: tensor for name, tensor in checkpoint["state_dict"].items() if not name.endswith("_extra_state")}
    if {name: tensor.shape for name, tensor in held.items()} != {n: p.shape for n, p in model.named_parameters()}:
        raise InputError(f"--ckpt_path {path}: was made by another --model than {kind}")
    if not all(tensor.isfinite().all() for tensor in held.values()):
        raise InputError(f"--ckpt_path {path}: holds weights that are not finite: the fit diverged")
    earlier = checkpoint.get("datamodule_hyper_parameters", {})
    for name in ("batch_size", "seed") if fits else ():
        value = data.hparams.get(name)
        if earlier.get(name, value) != value:
            raise InputError(
                f"--data.{name} {value}: {path} was made with {earlier[name]}, and its place in the order of the rows"
                " holds for that alone; leave the flag out, or start a new fit without --ckpt_path"
            )
