"""The least-squares optimum of the training rows, known from the start of every fit."""

from typing import Any

import lightning.pytorch as L
import torch

from linreg_pl.data.base import data_of


class Optimum(L.Callback):
    """Passes once over the training rows before the first step, if the data are of this project.

    Not for a model that makes this very pass itself.
    """

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Learn the triangular factor of the training rows."""
        data = data_of(trainer)
        if data is not None and pl_module.served != "factors":
            data.find_factor()
