"""The inner life of Lightning: the epoch loop, checkpoint files, lost processes, and messages that are not shown."""

from linreg_pl.engine.trainer import Trainer

__all__ = ["Trainer"]
