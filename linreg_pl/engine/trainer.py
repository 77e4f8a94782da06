"""Lightning's Trainer, with an epoch loop whose steps are cheap."""

import warnings
from functools import wraps
from typing import Any

import lightning.pytorch as L
import torch

from linreg_pl.engine.epoch_loop import EpochLoop


class Trainer(L.Trainer):
    """A Trainer that takes steps cheaply.

    It takes the arguments of :class:`lightning.pytorch.Trainer` and gives the same results. Unless told otherwise, it
    leaves alone Apple's GPUs, which have no float64.
    """

    # The command line and Lightning's environment variables read the signature.
    @wraps(L.Trainer.__init__)  # type: ignore[misc]
    def __init__(self, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            if not torch.cuda.is_available():
                if kwargs.get("accelerator", "auto") == "auto":
                    kwargs["accelerator"] = "cpu"
                warnings.filterwarnings("ignore", "GPU available but not used")
            super().__init__(**kwargs)
        replaced = self.fit_loop.epoch_loop
        self.fit_loop.epoch_loop = EpochLoop(self, replaced.min_steps, replaced.max_steps)


def count_steps(trainer: L.Trainer, count: int) -> None:
    """Count optimizer steps that a training step took by hand beside the one that the Trainer has counted."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    progress.ready += count
    progress.completed += count
