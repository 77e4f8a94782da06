"""Linear regression as a PyTorch Lightning project."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `LinearRegressor` when it is asked for: it needs torch and scikit-learn, and the rest may not."""
    if name == "LinearRegressor":
        return importlib.import_module("linreg_pl.estimator").LinearRegressor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
