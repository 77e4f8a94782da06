"""What the models that need one pass over the rows share."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from linreg_pl.errors import InputError
from linreg_pl.functional.regression import linreg
from linreg_pl.models.base import BY_HAND, LinearModel
from linreg_pl.models.optim import SGD


class OnePass(LinearModel):
    """A model that is solved from triangular factors; no lr, no SGD, one epoch."""

    refused_flags = BY_HAND | {
        "precision": "this model computes in float64; leave the flag out",
        **dict.fromkeys(
            ("overfit_batches", "limit_train_batches"),  # the first sets the second
            "this model takes all rows; leave rows out of the table instead",
        ),
    }
    automatic_optimization = False
    squared_error_scale = 1.0
    served = "factors"
    wants_raw = True
    factors: Metric  # collects the factors of the rows

    def __init__(self, num_features: int, bias: bool) -> None:
        super().__init__(num_features)
        self.w = nn.Parameter(torch.zeros(num_features, 1, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(1, dtype=torch.float64)) if bias else 0.0
        self._solved = False

    def net(self, X: Tensor) -> Tensor:
        """Predict ``(n, 1)`` from raw features ``(n, P)``, float64."""
        return linreg(X, self.w, self.b)

    @property
    def has_coefficients(self) -> bool:
        """Whether the pass came to its end; if it did so in another process, only the weights tell."""
        return self._solved or bool(self.w.any())

    def losses(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Squared error."""
        return (y_hat - y).square()

    def on_fit_start(self) -> None:
        """Check that there will be a pass, and only one."""
        if self.trainer.max_epochs == 0:
            raise InputError("--trainer.max_epochs 0: this model needs one epoch; leave the flag out")
        self.trainer.fit_loop.max_epochs = 1

    def on_train_epoch_start(self) -> None:
        """Begin with no rows: every epoch is a whole pass."""
        self.factors.reset()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Add the factors of some rows, or the rows themselves; after the last ones, solve."""
        self.factors.update(batch if isinstance(batch, Tensor) else self.factor(self.scaled(batch), batch_idx))
        if self.trainer.is_last_batch:
            with torch.no_grad():
                weight, bias = self.solve(self.factors.compute().cpu())
                self.w.copy_(weight.reshape(-1, 1))
                if isinstance(self.b, Tensor):
                    self.b.copy_(bias)
            self._solved = True
            self.optimizers().step()  # type: ignore[union-attr]

    @abstractmethod
    def factor(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the factors of rows from a loader that is not of this project."""

    @abstractmethod
    def solve(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights ``(P,)`` and bias ``()`` from the factors of all rows."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whether the checkpoint holds coefficients."""
        super().on_load_checkpoint(checkpoint)
        self._solved = "coefficients" in checkpoint

    def configure_optimizers(self) -> SGD:
        """Nothing to descend: the optimizer's only step, without gradients, counts the pass as one step."""
        return SGD(self.parameters(), lr=1.0)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """``w`` of shape ``(P, 1)`` and ``b`` of shape ``(1,)``."""
        return self.w, self.b if isinstance(self.b, Tensor) else None
