"""Callbacks: what happens beside the steps."""

from linreg_pl.callbacks.arrival import Optimum, StopWithin
from linreg_pl.callbacks.checkpoint import Checkpoint
from linreg_pl.callbacks.curves import Curves, History
from linreg_pl.callbacks.figures import Figures
from linreg_pl.callbacks.predictions import Predictions
from linreg_pl.callbacks.progress import Progress
from linreg_pl.callbacks.report import RunReport
from linreg_pl.callbacks.scores import EpochScores
from linreg_pl.callbacks.signals import StopSignals
from linreg_pl.callbacks.stability import Stability
from linreg_pl.engine.checkpoint_io import DurableCheckpointIO

__all__ = [
    "Checkpoint",
    "Curves",
    "DurableCheckpointIO",
    "EpochScores",
    "Figures",
    "History",
    "Optimum",
    "Predictions",
    "Progress",
    "RunReport",
    "Stability",
    "StopSignals",
    "StopWithin",
]
