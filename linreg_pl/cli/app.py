"""Wiring: the LightningCLI, its defaults and links, and what is refused.

Data, models and callbacks meet only here.
"""

import os
import re
import sys
import threading
import traceback
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from linreg_pl.callbacks import (
    Checkpoint,
    Curves,
    EpochScores,
    Figures,
    History,
    Optimum,
    Predictions,
    Progress,
    RunReport,
    Stability,
    StopSignals,
    StopWithin,
)
from linreg_pl.cli import checks
from linreg_pl.cli.flags import run_flags
from linreg_pl.cli.parser import Parser, RefusedError, config_paths, read_config
from linreg_pl.data import DataModule, Perturbed, Synthetic, Table
from linreg_pl.engine import Trainer, processes
from linreg_pl.engine.checkpoint_io import DurableCheckpointIO
from linreg_pl.engine.quiet import pass_over_full_disks, quieten
from linreg_pl.errors import InputError, require_positive
from linreg_pl.models import LinearModel
from linreg_pl.runs.checkpoints import load_checkpoint, newest, newest_run, run_folder
from linreg_pl.runs.logger import run_loggers
from linreg_pl.system import open_as_utf8

__all__ = ["Perturbed", "Settings", "Synthetic", "Table", "run"]

TRAINER_DEFAULTS = {
    "max_epochs": 3,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}


class CLI(LightningCLI):
    """LightningCLI for linear models."""

    datamodule: DataModule
    model: LinearModel
    parsers: ClassVar[tuple[Any, ...]] = ()

    def setup_parser(self, *arguments: Any) -> None:
        """Build the parsers once in a process, for that takes longer than a short run; a sweep runs many."""
        if not CLI.parsers:
            super().setup_parser(*arguments)
            CLI.parsers = self.parser, self._subcommand_parsers, self._subcommand_method_arguments
        self.parser, self._subcommand_parsers, self._subcommand_method_arguments = CLI.parsers
        vars(self.parser).pop("print_config", None)  # asked for where the arguments before were refused

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's flags, and take the number of features from the data."""
        parser.add_function_arguments(run_flags, as_group=False)
        parser.add_argument(
            "--resume", action="store_true", help="go on with the newest run of this name; begin if there is none"
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

    def _set_seed(self) -> None:
        seed = self.settings.seed_everything
        if not 0 <= seed < 2**32:
            raise InputError(f"--seed_everything {seed}: must be a whole number from 0 to 2^32 - 1")
        super()._set_seed()

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """What ``--ckpt_path`` holds."""
        return load_checkpoint(Path(self.settings.ckpt_path))

    def _parse_ckpt_path(self) -> None:
        """Leave the arguments alone; `check_checkpoint` compares them with the checkpoint's."""

    def before_instantiate_classes(self) -> None:
        """Name the run's folder, and refuse what cannot work."""
        settings, trainer = self.settings, self.settings.trainer
        checks.refuse_null(settings)
        checks.take_formula(settings)
        checks.check_flags(settings)
        self._find_checkpoint()
        if self.subcommand != "fit":
            if not settings.ckpt_path:
                raise InputError(f"{self.subcommand} needs a fitted model: python train.py {self.subcommand} RUN")
            trainer.logger = False
            if self.subcommand == "predict":
                trainer.precision = None  # of the steps; rows come in their own units now
            checks.take_columns(settings.data.init_args, self.checkpoint)
        elif trainer.logger in (None, True):
            runs = self._runs()
            trainer.logger = Namespace(
                class_path="linreg_pl.runs.logger.RunLogger",
                init_args=Namespace(save_dir=str(runs.parent), name=runs.name),
            )

    def _runs(self) -> Path:
        """Folder of the runs of this name."""
        settings, trainer = self.settings, self.settings.trainer
        if isinstance(trainer.logger, Namespace) and "save_dir" in (given := trainer.logger.init_args):
            return Path(given.save_dir, given.name or "")
        name = Path(str(settings.config[0])).stem if settings.config else settings.model.class_path.split(".")[-1]
        return Path(trainer.default_root_dir or "", "runs", name.lower())

    def _find_checkpoint(self) -> None:
        """Find what ``--ckpt_path last`` and ``--resume`` mean, and where a run that torchrun starts again was."""
        settings, fits = self.settings, self.subcommand == "fit"
        resume, settings.resume = fits and settings.resume, False  # config.yaml will tell what was found
        path = processes.previous_checkpoint() if fits else None
        if path is None:
            if resume and settings.ckpt_path:
                raise InputError(f"--resume with --ckpt_path {settings.ckpt_path}: give one of them")
            if not resume and settings.ckpt_path != "last":
                return
            run = newest_run(self._runs())
            warn = rank_zero_only(partial(print, "warning:", file=sys.stderr))
            path = newest(run, warn) if run is not None else None
            if path is None and resume:
                return
            if path is None:
                raise InputError(
                    f"--ckpt_path last: there is no checkpoint in {run or self._runs()}; name a file, or leave the"
                    " flag out"
                )
        settings.ckpt_path = str(path)
        rank_zero_only(print)(f"continuing from {path}\n", flush=True)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the Trainer with this project's callbacks."""
        settings, trainer = self.settings, self.settings.trainer
        folder = None if self.subcommand == "fit" else run_folder(Path(settings.ckpt_path))
        level = settings.confidence_level
        if not 0 < level < 1:
            raise InputError(f"--confidence_level {level}: must lie between 0 and 1, e.g. 0.95")
        guard = settings.guard and "--sweep=null" not in sys.argv  # which compares all
        report = RunReport(folder, level, guard, settings.covariance, settings.diagnostics, settings.beta)
        results: list[Callback] = [report]
        if settings.figures:
            results.append(Figures(level, 0 if settings.figures is True else settings.figures))
        callbacks: list[Callback] = [Optimum()] if settings.optimum else []
        callbacks += [Stability()] if settings.guard else []
        callbacks += [Progress(), EpochScores(), Curves(), History(), *results, StopSignals(results)]
        if settings.stop_within is not None:
            callbacks.append(StopWithin(settings.stop_within))
        if folder is not None and self.subcommand == "predict":
            callbacks.append(Predictions(settings.predictions or folder / "predictions.parquet", level, folder))
        writes = trainer.logger is not False and not trainer.fast_dev_run
        keeps = writes and trainer.enable_checkpointing is not False
        if writes and self.subcommand == "fit":
            callbacks.append(SaveConfigCallback(self._parser("fit"), settings))
        if keeps:
            callbacks.append(self._get(self.config_init, "checkpoint"))
        self.trainer_defaults["callbacks"] = callbacks
        try:
            given = self._get(self.config_init, "trainer")
            plugins = given.plugins if isinstance(given.plugins, list) else [given.plugins] if given.plugins else []
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                plugins = [*plugins, DurableCheckpointIO()]
            built = super().instantiate_trainer(enable_checkpointing=keeps, plugins=plugins, **kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise InputError(" ".join(str(error).split())) from error
        require_positive("--timeout", settings.timeout)
        processes.watch(built, settings.timeout)
        return built

    def after_instantiate_classes(self) -> None:
        """Check what can be checked only now, and say what was left out."""
        settings, data, fits = self.settings, self.datamodule, self.subcommand == "fit"
        if settings.ckpt_path is not None:
            checks.check_checkpoint(settings.ckpt_path, self.checkpoint, self.model, data, fits)
            path = Path(settings.ckpt_path)
            for logger in run_loggers(self.trainer):
                logger.continue_from(path, run_folder(path), self.checkpoint.get("curves", {}))
        if fits:
            checks.check_covariance(settings, self.model, data)
        self.model.companions = ()  # the Trainer has those that are wanted
        self.model.checkpoint_interval = settings.checkpoint.every_n_train_steps or 0
        if isinstance(data, Table) and data.formula is None:
            arguments = settings.data.init_args
            if fits and arguments.features is None and data.left_out and self.trainer.is_global_zero:
                print(f"left out, not numeric: {', '.join(map(repr, data.left_out))}\n", flush=True)
            # For config.yaml: as resolved.
            arguments.features, arguments.levels = data.columns.features, data.columns.levels or None

    def predict(self, **kwargs: Any) -> None:
        """Predict into a file; nothing is kept in memory."""
        self.trainer.predict(**(kwargs | {"return_predictions": False}))


class Settings(CLI):
    """Reads the command line, refuses what is wrong with it, and does nothing."""

    def _do_nothing(self, subcommand: str = "") -> None:
        pass

    instantiate_classes = after_instantiate_classes = _run_subcommand = _do_nothing


def run(kind: type[CLI] = CLI) -> CLI:
    """Run the command line."""
    quieten()
    open_as_utf8("jsonargparse")
    threading.excepthook = pass_over_full_disks
    try:
        return _run(kind)
    except Exception as error:
        if processes.several() and os.environ.get("LINREG_DEBUG") != "1":
            processes.end(error)
        raise
    finally:
        processes.unwatch()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _run(kind: type[CLI]) -> CLI:
    for path in config_paths():
        read_config(path)  # says what is wrong before the parser does
    try:
        return kind(
            LinearModel,
            DataModule,
            trainer_class=Trainer,
            save_config_callback=None,  # ours is among the callbacks
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults=dict(TRAINER_DEFAULTS),
        )
    except RefusedError as refused:
        raise InputError(str(refused)) from None
    except InputError:
        raise
    except Exception as error:
        if isinstance(error.__cause__, InputError | OSError | MemoryError):  # wrapped by the parser
            raise error.__cause__ from None
        files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
        said = " ".join(str(error).split())
        if any(file.name == "checkpoint_connector.py" for file in files):
            raise InputError(f"--ckpt_path: the checkpoint cannot be used ({said})") from error
        if error.__cause__ is not None and "jsonargparse" in files[-1].parts:  # a class that cannot be instantiated
            named, cause = re.search(r"class_path='([\w.]+)'", said), error.__cause__
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raised = f"{type(cause).__name__}: {' '.join(str(cause).split())} (LINREG_DEBUG=1 shows where)"
            raise InputError(f"{named[1] if named else 'a class'} cannot be used: {raised}") from error
        # A flag that Lightning found wrong only when it ran.
        if isinstance(error, MisconfigurationException | ValueError | RuntimeError) and "lightning" in files[-1].parts:
            raise InputError(said) from error
        raise
