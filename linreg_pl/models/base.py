"""What every model has: coefficients, scores, and one way to record them."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.parsing import AttributeDict
from torch import Tensor, nn

from linreg_pl.data.base import data_of, require_squarable
from linreg_pl.data.rows import Batch
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.functional.inference import noise_floor
from linreg_pl.functional.least_squares import Solution, unique_solution
from linreg_pl.functional.regression import linreg, squared_loss
from linreg_pl.history import History
from linreg_pl.hooks import drop_unused
from linreg_pl.metrics.scores import Scores

BY_HAND = {
    "gradient_clip_val": "this model takes its steps by hand; use --model Concise, which clips",
    "accumulate_grad_batches": "this model takes its steps by hand; a --data.batch_size that is as many times as"
    " large makes the same step",
}


class LinearModel(L.LightningModule, ABC):
    """A linear model of ``num_features`` columns.

    Args:
        num_features: columns of X; taken from the data.

    Attributes:
        refused_flags: Trainer flags the model cannot take, and why.
        own_units: whether the model sees the columns in their own units, in blocks of
            rows in order and as precise as they are, instead of in mini-batches.
        in_chunks: whether the model takes many mini-batches at once.
        loss_per_squared_error: what the squared error is multiplied with to give the loss; None for another loss.
        chunk_divisor: a chunk ends wherever the step count is a multiple of this, if not 0.
        factor: triangular factor of the training rows, in their own units, if known.
        optimum: the least-squares solution that follows from it, if there is a unique one.
        noise_floor: estimate of the noise variance that follows from both, if there is one.
        history: curves of the losses, and of the coefficients if there are few.
    """

    refused_flags: ClassVar[dict[str, str]] = {}
    own_units = False
    in_chunks = False
    chunk_divisor = 0
    loss_per_squared_error: float | None

    def __init__(self, num_features: int) -> None:
        super().__init__()
        # Code has no place in a checkpoint. A frame that Lightning looks up holds itself, and so the callers' rows.
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"], frame=inspect.currentframe())
        drop_unused(self, L.LightningModule)
        self.scores = nn.ModuleDict({part: Scores() for part in ("fit", "val", "test")})
        self.recorded: dict[str, float] = {}  # the newest values; `self.log` would round them to float32
        self.factor: Tensor | None = None
        self.optimum: Solution | None = None
        self.noise_floor: float | None = None
        self.history = History(coefficients=num_features <= 2)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Save the Trainer from analysing the arguments of ``training_step`` anew in each step."""
        super().__init_subclass__(**kwargs)
        cls.training_step.__signature__ = inspect.signature(cls.training_step)  # type: ignore[attr-defined]

    @property
    def hparams_initial(self) -> AttributeDict:
        """What the loggers are told: the arguments, and which model and optimizer they are of."""
        names = {"model": type(self).__name__.lower()}
        if "lr" in self.hparams and self._trainer is not None and self.trainer.optimizers:
            names["optimizer"] = type(self.trainer.optimizers[0]).__name__
        return AttributeDict(super().hparams_initial | names)

    def __setattr__(self, name: str, value: Any) -> None:
        """Take the short way for what the Trainer notes some thirty times in each step."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Change nothing; asking first who might want to takes a twentieth of a step."""
        return batch

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        """Leave a batch where it is on a CPU; looking through it for tensors to move is a tenth of a step."""
        if self.device.type == "cpu":
            return batch
        return super()._apply_batch_transfer_handler(batch, device, dataloader_idx)

    @abstractmethod
    def forward(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from features ``(n, P)``."""

    @abstractmethod
    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """The model's own loss of each row, ``(n, 1)``; without the penalty."""

    def loss_sum(self, y_hat: Tensor, batch: Batch) -> Tensor:
        """The losses of a batch, times the weights of its rows, summed."""
        losses = self.losses(y_hat, batch.y)
        return losses.sum() if batch.weight is None else (losses * batch.weight).sum()

    @abstractmethod
    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The weight parameter, of any shape, and the bias parameter if there is one."""

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Weight ``(P,)`` and bias ``()``, float64 on the CPU, in the units the model sees."""
        weight, bias = self.parameter_vectors()
        zero = torch.zeros((), dtype=torch.float64)
        return _plain(weight).reshape(-1), zero if bias is None else _plain(bias).reshape(())

    @property
    def unfinished(self) -> bool:
        """Whether there are no coefficients yet: those of a pass come at its end."""
        return self.own_units and self.factor is None

    @property
    def has_bias(self) -> bool:
        """Whether there is an intercept."""
        return self.parameter_vectors()[1] is not None

    @abstractmethod
    def describe(self) -> str:
        """The model in a few words, as notebook 2 prints its net."""

    def learn_factor(self, factor: Tensor | None) -> None:
        """Take the triangular factor of the training rows, and the optimum that follows from it."""
        if factor is not None and self._trainer is not None:
            data = data_of(self.trainer)
            for name, size in zip([*data.feature_names, data.target_name], factor.abs().amax(dim=0)[1:], strict=True):
                require_squarable(name, float(size))
        self.factor = factor
        self.optimum = None if factor is None else unique_solution(factor, self.has_bias)
        self.noise_floor = noise_floor(self.optimum)

    @property
    @abstractmethod
    def penalised(self) -> bool:
        """Whether the model means to end elsewhere than at the optimum."""

    def score(self, part: str, batch: Batch) -> None:
        """Add a batch to the scores of a part."""
        y_hat = self(batch.X)
        self.scores[part].update(y_hat, batch.y, self.loss_sum(y_hat, batch), batch.weight)  # type: ignore[operator]

    def take_scores(self, part: str) -> dict[str, float]:
        """Scores of a part over all processes; the next ones start from zero."""
        metric = self.scores[part]
        result: dict[str, float] = metric.compute()  # type: ignore[operator]
        metric.reset()  # type: ignore[operator]
        return result

    def record(self, values: Mapping[str, float]) -> None:
        """Make values known to callbacks and write them to the loggers at the current SGD step."""
        self.recorded |= values
        if self.trainer.state.fn == "fit":  # at a hundredth of the cost of `self.log_dict`
            self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        else:
            self.log_dict(dict(values), logger=False, batch_size=1)  # what `Trainer.validate` and `test` return
        self.write(values)

    def write(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Write values to the history and the loggers alone, by default at the current SGD step."""
        step = self.global_step if step is None else step
        self.history.add(values, step)
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=step)

    def recorded_scores(self, part: str) -> dict[str, float]:
        """The newest recorded scores of a part, by name."""
        prefix = f"{part}/"
        return {name.removeprefix(prefix): x for name, x in self.recorded.items() if name.startswith(prefix)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of validation rows."""
        self.score("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Record the scores of the validation rows."""
        scores = self.take_scores("val")
        if not self.trainer.sanity_checking:
            self.record({f"val/{name}": value for name, value in scores.items()})

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of test rows."""
        self.score("test", batch)

    def on_test_epoch_end(self) -> None:
        """Record the scores of the test rows."""
        self.record({f"test/{name}": value for name, value in self.take_scores("test").items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        """Predict a batch of rows in their own units, ``(n, 1)``, float64."""
        weight, bias = data_of(self.trainer).to_own_units(*self.coefficients())
        return linreg(batch.X.double(), weight.reshape(-1, 1).to(batch.X.device), bias.item())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the factor with the weights, the name of the model, and what the report and the pictures show."""
        checkpoint |= {"factor": self.factor, "model": type(self).__name__}
        checkpoint |= {"recorded": dict(self.recorded), "history": self.history.curves}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the factor with the weights, and what the report and the pictures show."""
        self.learn_factor(checkpoint.get("factor"))
        self.recorded = checkpoint.get("recorded", {})
        self.history.curves = checkpoint.get("history", {})


class SGDModel(LinearModel):
    """A linear model fitted by stochastic gradient descent.

    Args:
        num_features: columns of X; taken from the data.
        lr: step size.
        bias: whether there is an intercept.
        init_std: the weights start from N(0, init_std²), the bias from 0.
        weight_decay: strength of the L2 penalty on the weights.

    Attributes:
        reduction: whether a step follows the mean of the mini-batch's losses or their sum.
        takes_plain_steps: whether a step is ``-lr`` times the gradient, always.
    """

    reduction = "mean"
    takes_plain_steps = True

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
        """
        generator = torch.Generator().manual_seed(torch.initial_seed())
        weight = init_std * torch.randn(num_features, generator=generator)
        if not weight.isfinite().all():
            raise InputError(f"--model.init_std {init_std:g}: makes weights that are too large for float32")
        return weight

    @property
    def penalised(self) -> bool:
        """Whether weight decay or another loss pulls the weights from the optimum."""
        return self.weight_decay > 0 or self.loss_per_squared_error is None

    def gradients(self) -> dict[str, list[float]]:
        """Gradient of the last step's mean loss by ``weight`` and ``bias``; empty before the first step."""
        weight, bias = self.parameter_vectors()
        named = {"weight": weight, "bias": bias}
        return {
            name: _plain(parameter.grad).reshape(-1).tolist()
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

    def share_of_rows(self, batch: Batch) -> float:
        """Rows of the mini-batch per process.

        A sum over this process's rows divided by this number and averaged over the
        processes, as DDP averages gradients, is the mean over the whole mini-batch,
        also where processes have unequal numbers of rows.
        """
        return batch.num_rows / self.trainer.world_size

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients of the last step: the report shows them."""


class HandWrittenSGD(SGDModel):
    """SGD on half the squared error, whose steps are taken by hand (d2l section 3.4)."""

    refused_flags = BY_HAND
    automatic_optimization = False
    loss_per_squared_error = 0.5

    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Half the squared error."""
        return squared_loss(y_hat, y)


def _plain(parameter: Tensor) -> Tensor:
    return parameter.detach().cpu().double()
