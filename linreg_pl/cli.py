"""Wiring: the LightningCLI, its defaults and links, and what is refused.

Data, models and callbacks meet only here.
"""

import importlib
import inspect
import re
import sys
import traceback
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from linreg_pl.callbacks import (
    Checkpoint,
    Curves,
    DurableCheckpointIO,
    EpochLoss,
    Optimum,
    Predictions,
    Progress,
    RunReport,
    Stability,
    StopSignals,
    Together,
)
from linreg_pl.checkpoints import load_checkpoint, run_folder
from linreg_pl.data.base import DataModule
from linreg_pl.data.columns import Columns
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.models import LinearModel
from linreg_pl.profiler import NoProfiler
from linreg_pl.quiet import quieten

__all__ = ["Synthetic", "Table", "run"]

TRAINER_DEFAULTS = {
    "max_epochs": 3,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}
FLOAT32 = ("32-true", "32", 32)  # the Trainer's default precision, by its names
REFUSED_FLAGS = {
    "use_distributed_sampler": "would repeat rows to fill up; the data share out their rows themselves, each once",
    "barebones": "would leave no report; use --trainer.logger false, which writes no files",
    "strategy": "a linear model is too small to be split over devices; use ddp, which splits the rows",
}


class Parser(LightningArgumentParser):
    """Parser whose errors are one line instead of the whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and exit with status 2."""
        text = " ".join(str(message).split())
        if unknown := re.match(r'Parser key "(model|data)".*Expected a path but (\S+) either', text):
            flag, name = unknown.groups()
            names = _concrete({"model": LinearModel, "data": DataModule}[flag])
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
            text = f"--{flag} {name}: {hint}"
        text = re.sub(r"Parser key \"(.+?)\": Expected a <class '(\w+)'>\. Got value:", r"\1: expected \2, got", text)
        text = re.sub(
            r"Parser key \"(.+?)\": Does not validate against any of the Union.*Given value: (.*)",
            r"\1: \2 is not accepted; see python train.py fit --help",
            text,
        )
        if early := re.search(r"(model|data): NestedArg\(key='(.+?)', val='(.*?)'\)", text):
            group, key, value = early.groups()
            text = f"--{group}.{key} {value}: put --{group} NAME before it"
        if "Problems parsing config" in text:
            text = f"{' '.join(_values_of('--config'))}: {text}"
        print("error:", text[:500], file=sys.stderr)
        sys.exit(2)


def _concrete(kind: type) -> list[str]:
    """Names of the classes below that can be used."""
    own = [] if inspect.isabstract(kind) else [kind.__name__]
    children: list[type] = kind.__subclasses__()
    return own + [name for child in children for name in _concrete(child)]


def _values_of(flag: str) -> list[str]:
    return [value for name, value in zip(sys.argv, sys.argv[1:], strict=False) if name in (flag, "-c")]


class CLI(LightningCLI):
    """LightningCLI for linear models."""

    trainer: Trainer
    datamodule: DataModule
    model: LinearModel

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint's arguments, and take the number of features from the data."""
        parser.add_argument(
            "--optimum", type=bool, default=True, help="find the least-squares optimum of the training rows too"
        )
        parser.add_argument("--guard", type=bool, default=True, help="refuse an lr that must diverge, stop at NaN")
        parser.add_argument("--confidence_level", type=float, default=0.95, help="of the confidence intervals")
        parser.add_argument(
            "--predictions", type=str | None, default=None, help="file that predict writes, .parquet or .csv"
        )
        parser.add_class_arguments(Checkpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "{epoch}-{step}",
                "checkpoint.save_last": True,
                "checkpoint.save_top_k": 1,
                "checkpoint.save_on_train_epoch_end": True,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("data.num_features", "model.init_args.num_features", apply_on="instantiate")

    @property
    def settings(self) -> Any:
        """Arguments of the subcommand."""
        return self.config[self.subcommand]

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """What ``--ckpt_path`` holds."""
        return load_checkpoint(Path(self.settings.ckpt_path))

    def _parse_ckpt_path(self) -> None:
        """Leave the arguments alone; `_check_checkpoint` compares them with the checkpoint's."""

    def before_instantiate_classes(self) -> None:
        """Name the run's folder, and refuse what cannot work."""
        settings, trainer = self.settings, self.settings.trainer
        self._check_flags()
        if trainer.accelerator == "auto" and not torch.cuda.is_available():
            trainer.accelerator = "cpu"  # Apple's GPUs have no float64, which the scores are kept in
        if self.subcommand != "fit":
            if not settings.ckpt_path:
                raise InputError(f"{self.subcommand} needs a fitted model: --ckpt_path RUN/checkpoints/last.ckpt")
            trainer.logger = False
            self._take_columns(settings.data.init_args)
        elif trainer.logger in (None, True):
            name = Path(str(settings.config[0])).stem if settings.config else settings.model.class_path.split(".")[-1]
            folder = Path(trainer.default_root_dir or "", "runs")
            trainer.logger = Namespace(
                class_path="linreg_pl.logger.RunLogger", init_args=Namespace(save_dir=str(folder), name=name.lower())
            )

    def _take_columns(self, arguments: Namespace) -> None:
        """Let a table be read as the one that the checkpoint was made with, where nothing else is asked for."""
        columns = self.checkpoint.get("Table", {}).get("columns")
        if columns is not None and "features" in arguments:
            arguments.features = arguments.features or columns["features"]
            arguments.categorical = arguments.categorical or list(columns["levels"])
            arguments.levels = arguments.levels or columns["levels"] or None
            for name in ("missing", "unknown", "time_unit"):
                if arguments[name] == getattr(Columns, name):
                    arguments[name] = columns[name]

    def _check_flags(self) -> None:
        """Refuse Trainer flags that cannot work, here or with the chosen model."""
        trainer, model = self.settings.trainer, self.settings.model
        module, name = model.class_path.rsplit(".", 1)
        kind: type[LinearModel] = getattr(importlib.import_module(module), name)
        strategy = trainer.strategy
        refused = {**kind.refused_flags, **REFUSED_FLAGS}
        if isinstance(strategy, str) and strategy.startswith(("auto", "ddp", "single")):
            del refused["strategy"]
        for flag, reason in refused.items():
            default = inspect.signature(Trainer).parameters[flag].default
            usual = {TRAINER_DEFAULTS.get(flag, default), *(FLOAT32 if flag == "precision" else ())}
            if trainer[flag] not in usual:
                raise InputError(f"--trainer.{flag} {trainer[flag]}: {reason}")
        if 0 < float(trainer.overfit_batches) < 1:
            raise InputError(
                f"--trainer.overfit_batches {trainer.overfit_batches}: validation rows come as one batch, which cannot"
                " be divided; give a number of mini-batches"
            )
        if not kind.own_units and self.settings.data.init_args.get("standardize") and not model.init_args.bias:
            raise InputError(
                "--model.bias false with --data.standardize true: standardising centres the columns, which is an"
                " intercept in disguise; set --data.standardize false"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with this project's callbacks."""
        trainer = self.settings.trainer
        folder = None if self.subcommand == "fit" else run_folder(Path(self.settings.ckpt_path))
        level = self.settings.confidence_level
        if not 0 < level < 1:
            raise InputError(f"--confidence_level {level}: must lie between 0 and 1, e.g. 0.95")
        report = RunReport(folder, level)
        callbacks: list[Callback] = [Progress(), EpochLoss(), Curves(), report, StopSignals(report)]
        if self.settings.guard:
            callbacks.insert(0, Stability())
        if self.settings.optimum:
            callbacks.insert(0, Optimum())
        if self.subcommand == "predict":
            assert folder is not None
            path = Path(self.settings.predictions) if self.settings.predictions else folder / "predictions.parquet"
            callbacks.append(Predictions(path, level))
        keeps = trainer.logger is not False and trainer.enable_checkpointing is not False and not trainer.fast_dev_run
        if self.subcommand == "fit" and trainer.logger is not False and not trainer.fast_dev_run:
            callbacks.append(SaveConfigCallback(self._parser("fit"), self.settings))
        callbacks = [Together(callbacks)]
        if keeps:
            callbacks.append(self._get(self.config_init, "checkpoint"))
        self.trainer_defaults["callbacks"] = callbacks
        try:
            given = self._get(self.config_init, "trainer")
            plugins = given.plugins if isinstance(given.plugins, list) else [given.plugins] if given.plugins else []
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                plugins = [*plugins, DurableCheckpointIO()]
            profiler = given.profiler or NoProfiler()
            return super().instantiate_trainer(enable_checkpointing=keeps, profiler=profiler, plugins=plugins, **kwargs)
        except (ValueError, ImportError) as error:
            raise InputError(" ".join(str(error).split())) from error

    def after_instantiate_classes(self) -> None:
        """Check what can be checked only now, and say what was left out."""
        self._check_checkpoint()
        self.model.chunk_divisor = self.settings.checkpoint.every_n_train_steps or 0
        if isinstance(self.datamodule, Table):
            left_out, arguments = self.datamodule.left_out, self.settings.data.init_args
            if self.subcommand == "fit" and arguments.features is None and left_out and self.trainer.is_global_zero:
                print(f"left out, not numeric: {', '.join(map(repr, left_out))}\n", flush=True)
            columns = self.datamodule.columns  # for config.yaml: as resolved
            arguments.features, arguments.levels = columns.features, columns.levels or None

    def _check_checkpoint(self) -> None:
        path = self.settings.ckpt_path
        if path is None:
            return
        checkpoint = self.checkpoint
        saved = checkpoint.get("hyper_parameters", {})
        for name, value in self.model.hparams.items():
            if name == "num_features" and isinstance(self.datamodule, Table):
                continue  # the table tells which columns are not those of the checkpoint
            if name in saved and saved[name] != value:
                raise InputError(
                    f"--model.{name} {value}: {path} was made with {saved[name]}; leave the flag out, or fit anew"
                    " without --ckpt_path"
                )
        data = checkpoint.get("datamodule_hyper_parameters", {})
        for name in ("batch_size", "seed") if self.subcommand == "fit" else ():
            value = self.datamodule.hparams.get(name)
            if data.get(name, value) != value:
                raise InputError(
                    f"--data.{name} {value}: {path} was made with {data[name]}, and its place in the order of the rows"
                    " holds for that alone; leave the flag out, or fit anew without --ckpt_path"
                )
        if checkpoint["state_dict"].keys() != self.model.state_dict().keys():
            raise InputError(f"--ckpt_path {path}: was made by another --model than {type(self.model).__name__}")

    def predict(self, **kwargs: Any) -> None:
        """Predict into a file; nothing is kept in memory."""
        self.trainer.predict(**(kwargs | {"return_predictions": False}))


def run() -> None:
    """Run the command line."""
    quieten()
    try:
        CLI(
            LinearModel,
            DataModule,
            save_config_callback=None,  # ours is among the callbacks
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults=dict(TRAINER_DEFAULTS),
        )
    except ValueError as error:
        if isinstance(error.__cause__, InputError):  # the parser wraps what a constructor raises
            raise error.__cause__ from None
        *_, origin = traceback.walk_tb(error.__traceback__)
        if "lightning" in Path(origin[0].f_code.co_filename).parts:  # a flag that it found wrong only when it ran
            raise InputError(" ".join(str(error).split())) from error
        raise
    except MisconfigurationException as error:
        raise InputError(" ".join(str(error).split())) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
