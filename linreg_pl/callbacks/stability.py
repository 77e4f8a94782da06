"""Refuses a step size that must diverge, and stops a run that did."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from torch import Tensor

from linreg_pl.data.base import DataModule, data_of
from linreg_pl.errors import InputError
from linreg_pl.functional.stability import largest_stable_lr, surely_stable_lr

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel


class Stability(L.Callback):
    """Checks ``lr`` before the first step, and the loss and the weights after."""

    def __init__(self) -> None:
        self.largest_lr = math.inf
        self._advice = "set a smaller --model.lr"
        self._costly = False  # to look at a loss

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Compare ``lr`` with the largest stable one.

        Raises:
            InputError: it is larger.
        """
        self._costly = trainer.world_size > 1 or pl_module.device.type != "cpu"
        data = data_of(trainer)
        plain = pl_module.is_plain_sgd and not trainer.gradient_clip_val and trainer.accumulate_grad_batches == 1
        if data is None or not plain or pl_module.squared_error_scale is None:
            return
        if math.isfinite(greatest := data.windows().greatest_curvature):
            mean, unit = mean_curvature(data, pl_module)
            self.largest_lr = surely_stable_lr(unit * greatest, mean, rows_of_a_step(data))  # or below that
            if pl_module.lr <= self.largest_lr:
                return
        self.largest_lr, direction, curvature = largest_lr(data, pl_module)
        limit = _round_down(self.largest_lr)
        self._advice = f"set --model.lr {limit} or less"
        worst = int(direction[: data.num_features].argmax())
        if direction[worst] > 0.5 and curvature[worst, worst] > 100:
            name = data.feature_names[worst]
            self._advice += f", or --data.standardize true, since column {name!r} outweighs the rest"
        if pl_module.lr > self.largest_lr:
            raise InputError(
                f"--model.lr {pl_module.lr:g}: diverges on these data with --data.batch_size {data.batch_size}, where"
                f" {limit} is the largest stable one; {self._advice} (--guard false tries it all the same)"
            )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite; of several processes or a GPU it is only looked at when it is logged.

        Raises:
            InputError: the loss is infinite or not a number.
        """
        if not outputs:
            return
        loss = outputs["loss"]
        if self._costly:
            interval = trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
            if trainer.global_step % interval and "losses" not in outputs:
                return
            loss = trainer.strategy.reduce(loss, reduce_op="mean")
        loss = float(loss)
        if not math.isfinite(loss):
            raise self._diverged(trainer, pl_module, f"the loss of the mini-batch is {loss}")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep weights that are not finite out of the checkpoints.

        Raises:
            InputError: a weight is infinite or not a number.
        """
        if not all(bool(torch.isfinite(tensor).all()) for tensor in pl_module.coefficients()):
            raise self._diverged(trainer, pl_module, "a weight is not finite")

    def _diverged(self, trainer: L.Trainer, pl_module: Any, what: str) -> InputError:
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was made yet"
        advice = self._advice
        if pl_module.lr is not None and pl_module.lr <= self.largest_lr < math.inf:  # which holds on average only
            advice = f"set --model.lr {_round_down(pl_module.lr / 2)} or less"
        return InputError(f"step {trainer.global_step}: {what}, the run has diverged; {kept}; {advice}")


def rows_of_a_step(data: DataModule) -> int:
    """Rows of a mini-batch, over all processes."""
    return min(data.batch_size, data.num_rows("train"))


def mean_curvature(data: DataModule, model: "LinearModel") -> tuple[Tensor, float]:
    """Mean curvature ``(d, d)`` of a model's loss and penalty, and how many half mean squared errors its loss is."""
    assert model.squared_error_scale is not None
    unit = 2 * model.squared_error_scale * (rows_of_a_step(data) if model.reduction == "sum" else 1)
    free = data.num_features + model.has_bias
    return unit * data.mean_curvature[:free, :free] + _penalty(data, model).diag(), unit


def largest_lr(data: DataModule, model: "LinearModel") -> tuple[float, Tensor, Tensor]:
    """Largest stable ``lr`` of a model whose loss is a squared error, from all training rows.

    Returns:
        The step size and the direction that breaks first, as in `largest_stable_lr`, and the mean curvature ``(d, d)``.
    """
    mean, unit = mean_curvature(data, model)
    penalty = _penalty(data, model)
    square = unit**2 * data.curvature.of_mini_batches(data.batch_size, model.has_bias)[1]
    product = mean * penalty  # with P, the penalty's curvature: E[(A + P)²] = E[A²] + (E[A] + P) P + P (E[A] + P) - P²
    return *largest_stable_lr(mean, square + product + product.mT - (penalty**2).diag()), mean


def _penalty(data: DataModule, model: "LinearModel") -> Tensor:
    penalty = torch.zeros(data.num_features + model.has_bias, dtype=torch.float64)
    penalty[: data.num_features] = model.weight_decay
    return penalty


def _round_down(value: float) -> str:
    """Three digits, never more than the value."""
    if not math.isfinite(value) or value <= 0:
        return str(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.floor(value / unit) * unit:.3g}"
