"""What the models that are fitted by stochastic gradient descent share."""

import math
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.parsing import AttributeDict
from torch import Tensor

from linreg_pl.callbacks.stability import largest_lr
from linreg_pl.data.base import data_of
from linreg_pl.data.batch import Batch
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.functional.regression import linreg, squared_loss
from linreg_pl.models.average import Average
from linreg_pl.models.base import BY_HAND, LinearModel


class SGDModel(LinearModel):
    """A linear model that is fitted by stochastic gradient descent, with the arguments of `Scratch`.

    Attributes:
        average: the average over the steps; None if the coefficients are those after the last step.
        finds_lr: whether every fit finds the step size for its rows.
        largest_lr: the largest stable step size, if it was found.
    """

    lr: float
    is_plain_sgd = True

    def __init__(
        self,
        num_features: int,
        lr: float | Literal["auto"],
        bias: bool,
        init_std: float,
        weight_decay: float,
        average: bool,
    ) -> None:
        super().__init__(num_features)
        require_positive("--model.lr", 1.0 if lr == "auto" else lr)
        require_not_negative("--model.init_std", init_std)
        require_not_negative("--model.weight_decay", weight_decay)
        self.finds_lr = lr == "auto"
        self.lr = math.nan if lr == "auto" else lr  # until the rows are known
        self.largest_lr: float | None = None
        self.weight_decay = weight_decay
        self.average = Average(num_features) if average else None
        self._world_size = 1
        self._loaded_gradients: dict[str, list[float]] = {}

    @staticmethod
    def initial_weight(num_features: int, init_std: float) -> Tensor:
        """Draw the weights to start from, shape ``(P,)``; InputError if they are too large for float32.

        They depend on ``seed_everything`` alone, so all models start from the same.
        """
        generator = torch.Generator().manual_seed(torch.initial_seed())
        weight = init_std * torch.randn(num_features, generator=generator)
        if not weight.isfinite().all():
            raise InputError(f"--model.init_std {init_std:g}: makes weights that are too large for float32")
        return weight

    @property
    def hparams_initial(self) -> AttributeDict:
        """What loggers are told: also the step size as it is, and the name of the optimizer."""
        names: dict[str, Any] = {"lr": self.lr}
        if self._trainer is not None and self.trainer.optimizers:
            names["optimizer"] = type(self.trainer.optimizers[0]).__name__
        return AttributeDict(super().hparams_initial | names)

    def setup(self, stage: str) -> None:
        """Ask the data for rows, and find the step size if it is to be found; InputError if it cannot be."""
        super().setup(stage)
        self._world_size = self.trainer.world_size
        if self.average is not None:  # spawned processes share the memory of what they were given, and all write to it
            self.average.theta = self.average.theta.clone()
        if stage == "fit" and self.finds_lr:
            data = data_of(self.trainer)
            if data is None or not self.is_plain_sgd or self.squared_error_scale is None:
                what = "another optimizer, scheduler or loss" if data is not None else "a loader of your own"
                raise InputError(f"--model.lr auto: cannot be found for {what}; give a number")
            self.largest_lr = largest_lr(data, self)[0]
            self.lr = self.largest_lr / 4 if math.isfinite(self.largest_lr) else 1.0
            self.hparams["lr"] = self.lr

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Weight and bias for raw columns; the average over the steps, if that is wanted."""
        if self.average is None or not self.average.steps:
            return super().coefficients()
        theta = self.average.theta.cpu()
        return self.scaler.scaling.unscale_coefficients(theta[:-1], theta[-1])

    def predict_scaled(self, X: Tensor) -> Tensor:
        """Predict from columns as ``net`` takes them, but by the average over the steps, if that is wanted."""
        if self.average is None or not self.average.steps:
            return super().predict_scaled(X)
        theta = self.average.theta.to(X)
        return linreg(X, theta[:-1, None], theta[-1])

    @property
    def biased_objective(self) -> bool:
        """Whether weight decay or another loss moves the minimum away from the least-squares optimum."""
        return self.weight_decay > 0 or self.squared_error_scale is None

    def num_rows(self, batch: Any) -> int:
        """Rows of the mini-batch over all processes."""
        return batch.num_rows if isinstance(batch, Batch) else len(batch[1]) * self._world_size

    def rows_per_process(self, batch: Any) -> float:
        """Rows of the mini-batch per process.

        A sum over this process's rows divided by this number and averaged over the processes, as DDP averages
        gradients, is the mean over the whole mini-batch, also if processes have unequal numbers of rows.
        """
        return self.num_rows(batch) / self._world_size

    def gradients(self) -> dict[str, list[float]]:
        """Gradient of the last step's mean loss by ``weight`` and ``bias``; empty before the first step."""
        return {
            name: parameter.grad.detach().cpu().double().reshape(-1).tolist()
            for name, parameter in zip(("weight", "bias"), self.parameter_vectors(), strict=True)
            if parameter is not None and parameter.is_leaf and parameter.grad is not None
        } or self._loaded_gradients

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the gradients too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["gradients"] = self.gradients()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the gradients too."""
        super().on_load_checkpoint(checkpoint)
        self._loaded_gradients = checkpoint.get("gradients", {})

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients of the last step, which the report shows."""


class HandWrittenSGD(SGDModel):
    """SGD on half the squared error, whose steps are taken by hand (d2l section 3.4)."""

    refused_flags = BY_HAND
    automatic_optimization = False
    squared_error_scale = 0.5

    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Half the squared error."""
        return squared_loss(y_hat, y)
