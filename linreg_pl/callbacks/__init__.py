"""Callbacks: what a run tells, and when."""

from linreg_pl.callbacks.checkpoint import Checkpoint, DurableCheckpointIO
from linreg_pl.callbacks.curves import Curves
from linreg_pl.callbacks.epochs import EpochLoss
from linreg_pl.callbacks.figures import Figures
from linreg_pl.callbacks.optimum import Optimum
from linreg_pl.callbacks.predictions import Predictions
from linreg_pl.callbacks.progress import Progress
from linreg_pl.callbacks.report import RunReport
from linreg_pl.callbacks.signals import StopSignals
from linreg_pl.callbacks.stability import Stability
from linreg_pl.callbacks.together import Together

__all__ = [
    "Checkpoint",
    "Curves",
    "DurableCheckpointIO",
    "EpochLoss",
    "Figures",
    "Optimum",
    "Predictions",
    "Progress",
    "RunReport",
    "Stability",
    "StopSignals",
    "Together",
]
