"""The least-squares optimum in one pass over the data."""

from typing import Any

import torch
from torch import Tensor, nn

from linreg_pl.data.base import data_of
from linreg_pl.errors import InputError, require_not_negative
from linreg_pl.functional.factors import shifted_factor, unshifted
from linreg_pl.functional.least_squares import RankDeficientError, column_std, num_rows, solve
from linreg_pl.functional.regression import linreg
from linreg_pl.metrics.least_squares import TriangularFactor
from linreg_pl.models.base import BY_HAND, LinearModel
from linreg_pl.models.optim import SGD


class Exact(LinearModel):
    """Linear regression by streaming Householder QR in float64; no lr, no SGD, one epoch.

    Args:
        num_features: columns of X.
        bias: whether there is an intercept.
        ridge: minimise ``|y - Xw - b|² + ridge |w|²`` instead, with the weights of the
            standardised columns in the penalty where the data are standardised. It is the
            number of training rows times the ``weight_decay`` of `Scratch`.

    Attributes:
        minimum_norm: where the rows do not determine the coefficients, take the shortest weight
            instead of refusing.
    """

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
    minimum_norm = False

    def __init__(self, num_features: int, bias: bool = True, ridge: float = 0.0) -> None:
        super().__init__(num_features)
        require_not_negative("--model.ridge", ridge)
        self.ridge = ridge
        self.triangular_factor = TriangularFactor(num_features, shifted=True)
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
        """Check that there will be a pass.

        Raises:
            InputError: there will be none.
        """
        if self.trainer.max_epochs == 0:
            raise InputError("--trainer.max_epochs 0: this model needs one epoch; leave the flag out")
        self.trainer.fit_loop.max_epochs = 1

    def on_train_epoch_start(self) -> None:
        """Begin with no rows: every epoch is a whole pass."""
        self.triangular_factor.reset()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Add the factor of some rows, or the rows themselves; after the last ones, solve."""
        factor = batch if isinstance(batch, Tensor) else shifted_factor(*self.scaled(batch))
        self.triangular_factor.update(factor)
        if self.trainer.is_last_batch:
            self._solve(self.triangular_factor.compute().cpu())
            self.optimizers().step()  # type: ignore[union-attr]

    @torch.no_grad()
    def _solve(self, factor: Tensor) -> None:
        data, count, wanted = data_of(self.trainer), num_rows(factor), len(self.w) + self.has_bias
        if data is not None:
            data.set_factor(factor)
        factor = unshifted(factor)
        if count < wanted and not (self.ridge or self.minimum_norm):
            raise InputError(
                f"{count} training rows cannot determine {wanted} coefficients: use more rows, fewer columns in"
                " --data.features, or --model.ridge above 0"
            )
        try:
            scale = column_std(factor) if data is not None and data.standardize else None
            solution = solve(factor, self.has_bias, self.ridge, scale, self.minimum_norm)
        except RankDeficientError as error:
            raise InputError(self._dependence(error.dependencies)) from error
        self.w.copy_(solution.weight.reshape(-1, 1))
        if isinstance(self.b, Tensor):
            self.b.copy_(solution.bias)
        self._solved = True

    def _dependence(self, dependencies: list[list[int]]) -> str:
        """Say which columns depend on each other, and what to do."""
        names = [*self.feature_names, "the bias"]
        said = []
        for own, *others in dependencies:
            if others in ([], [-1]):
                said.append(f"column {names[own]!r} has one value only")
            else:
                listed = ", ".join(names[column] if column < 0 else repr(names[column]) for column in others)
                said.append(f"column {names[own]!r} follows linearly from {listed}")
        out = ", ".join(repr(names[own]) for own, *_ in dependencies)
        where = "--data.features" + (" or their column out of --data.categorical" if "=" in out else "")
        mend = "" if self.ridge else ", or set --model.ridge above 0"
        return f"the coefficients are not unique: {'; '.join(said)}. Leave {out} out of {where}{mend}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whether the checkpoint holds coefficients."""
        super().on_load_checkpoint(checkpoint)
        self._solved = "coefficients" in checkpoint

    @property
    def biased_objective(self) -> bool:
        """Whether the ridge penalty pulls the weights from the optimum."""
        return self.ridge > 0

    def configure_optimizers(self) -> SGD:
        """Nothing to descend: the optimizer's only step, without gradients, counts the pass as one step."""
        return SGD(self.parameters(), lr=1.0)

    def parameter_vectors(self) -> tuple[Tensor, Tensor | None]:
        """``w`` of shape ``(P, 1)`` and ``b`` of shape ``(1,)``."""
        return self.w, self.b if isinstance(self.b, Tensor) else None

    def describe(self) -> str:
        """The method and its size."""
        return f"least squares by Householder QR of [1 X y], {self.w.shape[0]} features"
