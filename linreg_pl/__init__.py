"""Linear regression as a PyTorch Lightning project.

All public names can be imported from here. Their modules, and torch with them, are imported when they are first used.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linreg_pl.data import DataModule, Perturbed, Synthetic, Table
    from linreg_pl.engine import Trainer
    from linreg_pl.errors import InputError
    from linreg_pl.estimator import LinearRegressor
    from linreg_pl.models import Concise, ElasticNet, Exact, Fused, LinearModel, Scratch
else:  # a checker must not take every name for one of these

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"
__all__ = [
    "Concise",
    "DataModule",
    "ElasticNet",
    "Exact",
    "Fused",
    "InputError",
    "LinearModel",
    "LinearRegressor",
    "Perturbed",
    "Scratch",
    "Synthetic",
    "Table",
    "Trainer",
]

_HOMES = {
    "linreg_pl.data": ("DataModule", "Perturbed", "Synthetic", "Table"),
    "linreg_pl.engine": ("Trainer",),
    "linreg_pl.errors": ("InputError",),
    "linreg_pl.estimator": ("LinearRegressor",),
    "linreg_pl.models": ("Concise", "ElasticNet", "Exact", "Fused", "LinearModel", "Scratch"),
}
_MOVED = {  # where modules are that configs, checkpoints and users may know by an older name
    "linreg_pl.callbacks.history": "linreg_pl.callbacks.curves",
    "linreg_pl.callbacks.optimum": "linreg_pl.callbacks.arrival",
    "linreg_pl.checkpoints": "linreg_pl.runs.checkpoints",
    "linreg_pl.comparison": "linreg_pl.runs.comparison",
    "linreg_pl.data.columns": "linreg_pl.tables.columns",
    "linreg_pl.data.sources": "linreg_pl.tables.opening",
    "linreg_pl.export": "linreg_pl.cli.export",
    "linreg_pl.figures": "linreg_pl.runs.figures",
    "linreg_pl.functional.sgd": "linreg_pl.functional.fused.steps",
    "linreg_pl.logger": "linreg_pl.runs.logger",
    "linreg_pl.optim": "linreg_pl.models.optim",
    "linreg_pl.report": "linreg_pl.runs.report",
    "linreg_pl.shuffle": "linreg_pl.tables.shuffle",
    "linreg_pl.sweep": "linreg_pl.cli.sweep",
}


def __dir__() -> list[str]:
    """List the public names too, for completion in notebooks."""
    return sorted({*globals(), *__all__})


class _Moved:
    """Lets the import system find a module under its older name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Tell that this class can import ``name``, if it is one of the older names."""
        return ModuleSpec(name, self) if name in _MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module by its present name."""
        module = import_module(_MOVED[spec.name])
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Let the module keep its own description, which the import system has just replaced."""
        module.__spec__ = self.spec


sys.meta_path.append(_Moved())
