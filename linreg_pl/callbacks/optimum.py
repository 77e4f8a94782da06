"""The least-squares optimum of the training rows, known from the start of every fit."""

import lightning.pytorch as L
import torch

from linreg_pl.data.base import data_of
from linreg_pl.metrics.least_squares import TriangularFactor
from linreg_pl.models.base import LinearModel


class Optimum(L.Callback):
    """Gives the model the triangular factor of the training rows before the first step."""

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass once over the training rows in their own units, each process over its share."""
        assert isinstance(pl_module, LinearModel)
        if pl_module.own_units:  # the model makes this very pass itself
            return
        data = data_of(trainer)
        metric = TriangularFactor(data.num_features).to(pl_module.device)  # where its processes can talk
        for factor in data.factors("train"):
            metric.update(factor.to(pl_module.device))
        pl_module.learn_factor(metric.compute().cpu())
