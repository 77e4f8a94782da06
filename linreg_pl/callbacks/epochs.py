"""The loss over the whole training set after each epoch, as the notebooks print it."""

import lightning.pytorch as L
import torch

from linreg_pl.data.base import DataModule
from linreg_pl.models.base import LinearModel


class EpochLoss(L.Callback):
    """Scores the training rows after every epoch, records them as ``train/*``, and prints the loss."""

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass once over the training rows."""
        assert isinstance(pl_module, LinearModel)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        dtype = next(pl_module.parameters()).dtype
        for batch in data.blocks("train"):
            X, y = (tensor.to(pl_module.device, dtype) for tensor in (batch.X, batch.y))
            pl_module.score("fit", batch._replace(X=X, y=y))
        scores = pl_module.take_scores("fit")
        pl_module.record({f"train/{name}": value for name, value in scores.items()})
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}, loss {scores['loss']:f}", flush=True)
