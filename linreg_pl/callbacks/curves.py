"""Curves over the SGD steps: the mini-batch's loss and the coefficients."""

from typing import Any

import lightning.pytorch as L

from linreg_pl.data.base import DataModule
from linreg_pl.models.base import LinearModel

MAX_COEFFICIENTS = 32  # curves of more are not drawn: nobody can read them


class Curves(L.Callback):
    """Writes ``train/batch_loss``, ``weight/<name>`` and ``bias`` every ``log_every_n_steps`` steps.

    They go straight to the loggers: ``self.log`` at every step would cost more than the step.
    """

    def __init__(self) -> None:
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if it is time to."""
        step, interval = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self._last_step or not interval or step % interval:
            return
        self._last_step = step
        assert isinstance(pl_module, LinearModel)
        loss = trainer.strategy.reduce(outputs["loss"], reduce_op="mean")
        pl_module.write({"train/batch_loss": float(loss), **self._coefficients(trainer, pl_module)})

    @staticmethod
    def _coefficients(trainer: L.Trainer, model: LinearModel) -> dict[str, float]:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        weight, bias = data.to_own_units(*model.coefficients())
        named = zip(data.feature_names, weight.tolist(), strict=True)
        values = {f"weight/{name}": value for name, value in list(named)[:MAX_COEFFICIENTS]}
        return values | {"bias": bias.item()}
