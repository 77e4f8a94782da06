"""What the models that are fitted by stochastic gradient descent share."""

from typing import Any

import torch
from torch import Tensor

from linreg_pl.data.batch import Batch
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.functional.regression import squared_loss
from linreg_pl.models.base import BY_HAND, LinearModel, as_float64


class SGDModel(LinearModel):
    """A linear model that is fitted by stochastic gradient descent.

    Args:
        num_features: columns of X.
        lr: step size.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: strength of the L2 penalty on the weights.
    """

    lr: float
    is_plain_sgd = True

    def __init__(self, num_features: int, lr: float, bias: bool, init_std: float, weight_decay: float) -> None:
        super().__init__(num_features)
        require_positive("--model.lr", lr)
        require_not_negative("--model.init_std", init_std)
        require_not_negative("--model.weight_decay", weight_decay)
        self.lr = lr
        self.weight_decay = weight_decay
        self._loaded_gradients: dict[str, list[float]] = {}

    @staticmethod
    def initial_weight(num_features: int, init_std: float) -> Tensor:
        """Draw the weights to start from, shape ``(P,)``.

        They depend on ``seed_everything`` alone, so all models start from the same.

        Raises:
            InputError: they are too large for float32.
        """
        generator = torch.Generator().manual_seed(torch.initial_seed())
        weight = init_std * torch.randn(num_features, generator=generator)
        if not weight.isfinite().all():
            raise InputError(f"--model.init_std {init_std:g}: makes weights that are too large for float32")
        return weight

    @property
    def biased_objective(self) -> bool:
        """Whether weight decay or another loss moves the minimum away from the least-squares optimum."""
        return self.weight_decay > 0 or self.squared_error_scale is None

    def num_rows(self, batch: Any) -> int:
        """Rows of the mini-batch over all processes."""
        return batch.num_rows if isinstance(batch, Batch) else len(batch[1]) * self.trainer.world_size

    def rows_per_process(self, batch: Any) -> float:
        """Rows of the mini-batch per process.

        A sum over this process's rows divided by this number and averaged over the processes, as DDP averages
        gradients, is the mean over the whole mini-batch, also if processes have unequal numbers of rows.
        """
        return self.num_rows(batch) / self.trainer.world_size

    def gradients(self) -> dict[str, list[float]]:
        """Gradient of the last step's mean loss by ``weight`` and ``bias``; empty before the first step."""
        named = dict(zip(("weight", "bias"), self.parameter_vectors(), strict=True))
        return {
            name: as_float64(parameter.grad).reshape(-1).tolist()
            for name, parameter in named.items()
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
