"""What all models share: coefficients, scores, and how they get their rows."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities.parsing import AttributeDict
from torch import Tensor, nn

from linreg_pl.callbacks import Curves, EpochScores, History, Optimum, Stability
from linreg_pl.data.base import DataModule, data_of, other_columns
from linreg_pl.data.batch import Batch
from linreg_pl.data.prepared import Served
from linreg_pl.data.summary import TrainingSummary
from linreg_pl.errors import InputError
from linreg_pl.functional.regression import linreg
from linreg_pl.functional.standardize import Scaling
from linreg_pl.metrics.scores import Scores
from linreg_pl.models.scaler import Scaler

BY_HAND = {
    "gradient_clip_val": "this model takes its steps by hand; use --model Concise, which clips",
    "accumulate_grad_batches": "this model takes its steps by hand; a --data.batch_size that is as many times as"
    " large makes the same step",
}
USUAL_FLAGS = {  # what a Trainer has for flags that were not given
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "limit_train_batches": 1.0,
    "overfit_batches": 0.0,
    "precision": "32-true",
    "val_check_interval": 1.0,
}


class LinearModel(L.LightningModule, ABC):
    """A linear model of ``num_features`` columns, for any Trainer and any batches that unpack as ``X, y``.

    ``net`` predicts from the columns that its parameters are for, ``forward`` from raw columns.

    Attributes:
        served: what a `DataModule` is asked to serve for training.
        wants_raw: whether a `DataModule` is asked for raw float64 rows for validation and testing.
        refused_flags: Trainer flags that the model cannot take, and why.
        squared_error_scale: the loss divided by the squared error; None for another loss.
        lr: step size; None for a model without SGD.
        weight_decay: strength of the L2 penalty on the weights.
        reduction: whether a step follows the mean of a mini-batch's losses or their sum.
        is_plain_sgd: whether a step is always ``-lr`` times the gradient.
        companions: callbacks that the model brings to every Trainer that has none of their kind.
        checkpoint_interval: steps between checkpoints, 0 if they are made at the end of an epoch alone.
        steps_by_moments: whether the steps of a chunk are computed from the moments of its mini-batches.
        feature_names: names of the columns of X.
    """

    served: ClassVar[Served] = "mini-batches"
    wants_raw: ClassVar[bool] = False
    refused_flags: ClassVar[dict[str, str]] = {}
    companions: Sequence[type[L.Callback]] = (Stability, Optimum, EpochScores, Curves, History)
    squared_error_scale: float | None
    lr: float | None = None
    weight_decay = 0.0
    reduction = "mean"
    is_plain_sgd = False
    checkpoint_interval = 0
    steps_by_moments = False
    net: Any  # a function or a module, from features (n, P) to predictions (n, 1)

    def __init__(self, num_features: int) -> None:
        super().__init__()
        # Code has no place in a checkpoint. Given the frame, Lightning need not look for it: a frame that holds
        # itself would keep the callers' rows.
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"], frame=inspect.currentframe())
        self.feature_names = [f"x{i}" for i in range(num_features)]
        self._knows_names = False
        self.scaler = Scaler(num_features)
        self.scores = nn.ModuleDict({part: Scores() for part in ("fit", "val", "test")})

    @property
    def hparams_initial(self) -> AttributeDict:
        """What loggers are told: the arguments, and the name of the model."""
        return AttributeDict(super().hparams_initial | {"model": type(self).__name__.lower()})

    # The model.

    def forward(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from raw features ``(n, P)``."""
        return self.predict_scaled(self.scaler(X).to(self.parameter_vectors()[0].dtype))

    def predict_scaled(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from columns as ``net`` takes them."""
        return self.net(X)  # type: ignore[no-any-return]

    @abstractmethod
    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """The model's own loss of each row, ``(n, 1)``, without the penalty."""

    def loss_sum(self, y_hat: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sum of the losses of some rows, each times the row's weight."""
        losses = self.losses(y_hat, y)
        return losses.sum() if weight is None else (losses * weight).sum()

    @abstractmethod
    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The weight parameter, of any shape, and the bias parameter if there is one."""

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Weight ``(P,)`` and bias ``()`` for raw columns, float64 on the CPU."""
        weight, bias = self.parameter_vectors()
        bias = weight.new_zeros(()) if bias is None else bias
        weight, bias = (part.detach().cpu().double() for part in (weight, bias))
        return self.scaler.scaling.unscale_coefficients(weight.reshape(-1), bias.reshape(()))

    @property
    def has_bias(self) -> bool:
        """Whether there is an intercept."""
        return self.parameter_vectors()[1] is not None

    @property
    def has_coefficients(self) -> bool:
        """Whether there are coefficients yet; `Exact` has none before the end of its pass."""
        return True

    @property
    @abstractmethod
    def biased_objective(self) -> bool:
        """Whether the model minimises something else than the squared error, so that it ends elsewhere."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the model in a line, as notebook 2 prints its net."""

    def gradients(self) -> dict[str, list[float]]:
        """Gradient of the last step's mean loss by ``weight`` and ``bias``; empty if there is none."""
        return {}

    # Rows.

    def configure_callbacks(self) -> list[L.Callback]:
        """Raise InputError for what the model cannot do with this Trainer; bring the companions that it has not."""
        trainer: Any = self.trainer
        if trainer.strategy.root_device.type == "mps":
            raise InputError("Apple's GPUs have no float64, in which scores are summed: Trainer(accelerator='cpu')")
        refused = self.refused_flags if trainer.state.fn == "fit" and not trainer.fast_dev_run else {}
        for flag, reason in refused.items():
            value, usual = getattr(trainer, flag), USUAL_FLAGS[flag]
            if flag == "precision" and value == "64-true" and self.parameter_vectors()[0].dtype == torch.float64:
                continue  # which the model has anyway
            if value != usual or type(value) is not type(usual):  # 1 is one batch, 1.0 is all
                raise InputError(f"--trainer.{flag} {value}: {reason}")
        given = trainer.callbacks
        if not self.automatic_optimization and any(isinstance(callback, LearningRateFinder) for callback in given):
            raise InputError(
                "the learning rate finder needs a model whose steps the Trainer takes: use Concise, or look at the"
                " largest stable step size, which a fit with a larger one names"
            )
        return [kind() for kind in self.companions if not any(isinstance(callback, kind) for callback in given)]

    def setup(self, stage: str) -> None:
        """Ask a `DataModule` of this project for the rows this model wants; any other is taken as it is."""
        data = data_of(self.trainer)
        if data is not None:
            self.connect(data, stage)

    def connect(self, data: DataModule, stage: str) -> None:
        """Take names and scaling from the data, or InputError for other columns; tell which rows are wanted."""
        wanted, names = len(self.feature_names), data.feature_names
        if wanted != len(names) and (stage == "fit" or not self._knows_names):
            raise InputError(f"num_features {wanted}: the data have {len(names)} features, beginning with {names[0]!r}")
        data.require_bias(self.has_bias)
        if stage == "fit":
            self.scaler.set(None if self.wants_raw else data.scaling)
        if stage == "fit" or not self._knows_names:
            self.feature_names, self._knows_names = list(data.feature_names), True
        elif data.feature_names != self.feature_names:
            raise other_columns(self.feature_names, data.feature_names, "this model")
        data.serve(self.served, self.wants_raw or stage == "predict", self.checkpoint_interval, self.steps_by_moments)

    def scaled(self, batch: Any) -> tuple[Tensor, ...]:
        """``X, y`` and perhaps the rows' weights, X as ``net`` takes it; InputError unless y has one value a row."""
        dtype = self.parameter_vectors()[0].dtype
        if isinstance(batch, Batch):
            return self.scaler.complete(batch.X, batch.scaling).to(dtype), *batch.columns[1:]
        X, *others = batch
        return self.scaler.complete(X, None).to(dtype), *(_as_column(values, len(X)) for values in others)

    # Scores and predictions.

    def score(self, part: str, batch: Any) -> None:
        """Add a batch to the scores of a part."""
        X, y, *weight = self.scaled(batch)
        y_hat = self.predict_scaled(X)
        self.scores[part].update(y_hat, y, self.loss_sum(y_hat, y, *weight), *weight)  # type: ignore[operator]

    def compute_and_reset(self, part: str) -> dict[str, float]:
        """Scores of a part over all processes; the next ones start from zero."""
        metric: Any = self.scores[part]
        result: dict[str, float] = metric.compute()
        metric.reset()
        return result

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Score a batch of validation rows."""
        self.score("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Score a batch of test rows."""
        self.score("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Predict raw rows, ``(n, 1)``, in float64."""
        X, scaling = batch if isinstance(batch, Tensor) else batch[0], getattr(batch, "scaling", None)
        X = X.double() if scaling is None else scaling.invert(X)
        weight, bias = self.coefficients()
        return linreg(X, weight.reshape(-1, 1).to(X.device), bias.to(X.device))

    # Checkpoints and other forms.

    def to_torchscript(self, file_path: Any = None, method: str | None = "script", *args: Any, **options: Any) -> Any:
        """Trace the model, as Lightning does; TorchScript cannot compile it from its code, which "script" asks for."""
        if method == "script":
            raise InputError(
                'to_torchscript: this model can be traced, by method="trace" and example_inputs=X, but not scripted;'
                " better is torch.export.export(model, (X,)), or python train.py export"
            )
        return super().to_torchscript(file_path, method, *args, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is needed beside the weights: names, coefficients for raw columns, the data's factor."""
        summary = TrainingSummary() if (data := data_of(self.trainer)) is None else data.summary
        checkpoint |= summary.state_dict() | {"biased_objective": self.biased_objective}
        checkpoint["model"], checkpoint["feature_names"] = type(self).__name__, self.feature_names
        if self.has_coefficients:
            weight, bias = self.coefficients()
            checkpoint["coefficients"] = dict(zip(self.feature_names, weight.tolist(), strict=True))
            checkpoint["coefficients"] |= {"bias": bias.item()} if self.has_bias else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what `on_save_checkpoint` kept, also from checkpoints of earlier versions."""
        states = [state for state in checkpoint.values() if isinstance(state, dict) and "feature_names" in state]
        earlier = states[0]["feature_names"] if states else self.feature_names  # of the data
        self.feature_names, self._knows_names = checkpoint.get("feature_names") or earlier, True
        if states and "mean" in states[0] and not self.wants_raw:
            self.scaler.set(Scaling(*(torch.tensor(states[0][key], dtype=torch.float64) for key in ("mean", "scale"))))
        checkpoint["state_dict"].setdefault("scaler._extra_state", self.scaler.get_extra_state())
        if self._trainer is not None and (data := data_of(self.trainer)) is not None:
            data.summary.load_state_dict(checkpoint, [*data.feature_names, data.target_name])


def _as_column(values: Tensor, num_rows: int) -> Tensor:
    """Values of shape ``(n,)`` or ``(n, 1)`` as ``(n, 1)``: others would be broadcast against the predictions."""
    if values.shape not in ((num_rows,), (num_rows, 1)):
        raise InputError(
            f"a batch of {num_rows} rows has targets or weights of shape {tuple(values.shape)}: a linear model needs"
            f" one value a row, ({num_rows},) or ({num_rows}, 1)"
        )
    return values.reshape(-1, 1)
