"""``train.py refit``: another penalty, other columns or another level of confidence, without the table."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LambdaCallback

from linreg_pl.cli import app
from linreg_pl.data import DataModule
from linreg_pl.data.batch import Batch
from linreg_pl.data.folds import Folds
from linreg_pl.data.loaders import Blocks
from linreg_pl.data.parts import Part
from linreg_pl.errors import InputError, as_run, suggestion
from linreg_pl.functional.factors import merge_shifted, shifted, triangularize
from linreg_pl.runs.checkpoints import load_last
from linreg_pl.tables.formula import saved_columns

USAGE = """\
python train.py refit RUN --model.penalty 0.1
python train.py refit RUN --features '[rooms, age]' --confidence_level 0.9

makes a new run from the checkpoint of a finished one, without its table and in the time of a start. It takes the flags
of fit, for models that are solved from factors: Exact and ElasticNet. --features names columns that are kept.
"""


class SavedFactors(DataModule):
    """What a checkpoint keeps of the training rows: the triangular factors of the folds, or of all rows."""

    def __init__(self, run: str, features: Sequence[str] | None = None) -> None:
        path, checkpoint = load_last(Path(run))
        arguments = checkpoint.get("datamodule_hyper_parameters", {})
        super().__init__(1, arguments.get("seed", 0), arguments.get("standardize", False))
        states = [name for name, state in checkpoint.items() if isinstance(state, dict) and "target_name" in state]
        if not states or checkpoint.get("factor") is None:
            raise InputError(f"{path}: holds no factor of the training rows; fit again, without --optimum false")
        self.kind, self.state = states[0], dict(checkpoint[states[0]])
        self.weighted = arguments.get("weights") is not None
        self.target_name, self.feature_names = self.state["target_name"], list(self.state["feature_names"])
        factors = checkpoint.get("fold_factors")
        self.saved = shifted(checkpoint["factor"])[None] if factors is None else factors
        if features is not None:
            self._keep(features)

    def _keep(self, features: Sequence[str]) -> None:
        if "columns" not in self.state:
            raise InputError("--features: only columns of a table can be left out")
        columns = saved_columns(self.state["columns"])
        if columns.text is not None:
            raise InputError("--features: the run has a formula; fit again, with another one")
        for name in features:
            if name not in columns.features:
                hint = suggestion(name, columns.features)
                raise InputError(f"--features: {name!r} is not among the columns of the run{hint}")

        def kept(found: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in found.items() if name in features}

        listed = [name for name in columns.features if name in features]
        columns = replace(columns, features=listed, levels=kept(columns.levels), means=kept(columns.means))
        places = [self.feature_names.index(name) + 1 for name in columns.names]
        places = [0, *places, self.saved.shape[2] - 1]
        self.saved = torch.stack([torch.cat([triangularize(R[:-1, places]), R[-1:, places]]) for R in self.saved])
        self.feature_names = columns.names
        self.state |= {"columns": asdict(columns), "kinds": kept(self.state["kinds"]), "feature_names": columns.names}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of those data."""
        return self.state

    def delayed_blocks(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield no rows."""
        return iter(())

    def num_rows(self, part: Part) -> int:
        """Return how many rows the factors are of."""
        return int(self.state["num_train"]) if part == "train" else 0

    def empty_part_hint(self, part: Part) -> str:
        """Say that there are no rows."""
        return "a checkpoint holds none"

    def factors(self, part: Part, folds: Folds | None = None) -> Blocks[torch.Tensor]:
        """Load the factors of the folds, or of all rows; refuse if other folds are wanted."""
        if folds is not None and folds.num_folds == len(self.saved):
            return Blocks(lambda: iter([self.saved]))
        if folds is not None and folds.num_folds > 1:
            raise InputError(
                f"--model.folds {folds.num_folds}: the checkpoint holds the factors of {len(self.saved)}; fit again, or"
                " give --model.penalty a number"
            )
        total = merge_shifted(self.saved)
        return Blocks(lambda: iter([total if folds is None else total[None]]))


class Refit(app.CLI):
    """Fits to what a checkpoint keeps; config.yaml tells the data of the run."""

    datamodule: SavedFactors
    run_folder = ""
    features: Sequence[str] | None = None

    def before_instantiate_classes(self) -> None:
        """Put the factors in the place of the data; refuse what needs rows."""
        super().before_instantiate_classes()
        for flag, usual in (("covariance", "classical"), ("diagnostics", False)):
            if self.settings[flag] != usual:
                raise InputError(f"--{flag} {self.settings[flag]}: needs the rows; fit again, or set it to {usual}")
        arguments = Namespace(run=self.run_folder, features=self.features)
        self._data = self.settings.data
        self.settings.data = Namespace(class_path="linreg_pl.cli.refit.SavedFactors", init_args=arguments)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the Trainer, which writes config.yaml, for the data of the run."""
        if self.model.served != "factors":
            raise InputError(f"refit: {type(self.model).__name__} needs the rows; take --model Exact or ElasticNet")
        self.settings.data = self._data
        if self.features is not None:
            arguments, columns = self._data.init_args, self.datamodule.state_dict()["columns"]
            arguments.features, arguments.levels = columns["features"], columns["levels"] or None
            arguments.categorical = list(columns["levels"])
        kind = self.datamodule.kind

        def rename(trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
            checkpoint[kind] = checkpoint.pop(SavedFactors.__qualname__)  # the name of the data of the run

        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.insert(0, LambdaCallback(on_save_checkpoint=rename))  # type: ignore[attr-defined]
        return trainer


def command(arguments: list[str]) -> None:
    """Run ``python train.py refit`` with these arguments."""
    if arguments in ([], ["-h"], ["--help"]):
        print(as_run(USAGE), end="")
        return
    run, *flags = arguments
    config = Path(run, "config.yaml")
    if not config.is_file():
        raise InputError(f"{run}: holds no config.yaml; give the folder of a finished run, runs/NAME/version_N")
    Refit.features, words = None, iter(flags)
    flags = []
    for word in words:
        flag, equals, text = word.partition("=")
        if flag.startswith("--data"):
            raise InputError(f"{flag}: the data are those of the run; leave the flag out, or fit again")
        if flag == "--features":
            found = yaml.safe_load(text if equals else next(words, ""))
            if not isinstance(found, list) or not found:
                raise InputError("--features: needs a list of columns, such as '[rooms, age]'")
            Refit.features = list(map(str, found))
        else:
            flags.append(word)
    alone = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]  # there are no rows to share
    arguments = ["--config", str(config), "--ckpt_path=null", *flags, *alone]
    Refit.run_folder, sys.argv = run, [sys.argv[0], "fit", *arguments]
    app.run(Refit)
