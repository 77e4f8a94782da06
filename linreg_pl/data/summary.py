"""What is known of the training rows once their triangular factor is."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from linreg_pl.errors import InputError
from linreg_pl.functional.covariance import Covariance
from linreg_pl.functional.factors import unshifted
from linreg_pl.functional.inference import Inference, infer
from linreg_pl.functional.least_squares import Solution, unique_solution
from linreg_pl.functional.standardize import Scaling, column_scaling

ROUNDING = 2.0**-52  # of a mean in float64: a column that varies by less has one value


class TrainingSummary:
    """The triangular factor of ``[1 X y]`` over the training rows, in raw units, and what follows from it.

    Attributes:
        factor: shape ``(P + 2, P + 2)``, float64; None while it is not known.
        shifted: the same with its shift if that is known, to be merged with others.
        covariance: of the optimum's coefficients, if it is not the classical one.
        diagnostics: what its residuals look like, if that was asked for.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self.shifted: Tensor | None = None
        self.covariance: Covariance | None = None
        self.diagnostics: dict[str, Any] | None = None
        self._optima: dict[bool, Solution | None] = {}

    def set_factor(self, factor: Tensor | None, names: Sequence[str] = ()) -> None:
        """Set the factor.

        Args:
            factor: shifted or not, on the CPU; None if it is not known.
            names: of the columns of X and of y, to be checked.

        Raises:
            InputError: the values of a column are too large or too small to be squared.
        """
        self.shifted = factor
        if factor is not None and factor.shape[0] > factor.shape[1]:
            factor = unshifted(factor)
        if factor is not None and names:
            for name, size in zip(names, factor.abs().amax(dim=0)[1:].tolist(), strict=True):
                _require_squarable(name, size)
        self.factor = factor
        self.covariance = self.diagnostics = None
        self._optima = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"factor": self.factor, "covariance": self.covariance and self.covariance._asdict()}

    def load_state_dict(self, state: Mapping[str, Any], names: Sequence[str]) -> None:
        """Take what a checkpoint keeps; names and errors are those of `set_factor`."""
        self.set_factor(state.get("factor"), names)
        if state.get("covariance") is not None:
            self.covariance = Covariance(**state["covariance"])

    def optimum(self, bias: bool) -> Solution | None:
        """The least-squares solution with or without intercept; None if it is unknown or not unique."""
        if bias not in self._optima:
            self._optima[bias] = None if self.factor is None else unique_solution(self.factor, bias)
        return self._optima[bias]

    def inference(self, bias: bool, level: float = 0.95) -> Inference | None:
        """Standard errors and tests of the optimum; None if there are none.

        Args:
            bias: whether there is an intercept.
            level: probability that an interval covers the truth.
        """
        return infer(self.optimum(bias), level, self.covariance)

    def noise_floor(self, bias: bool) -> float | None:
        """Estimate of the noise variance, in the target's unit squared; None if there is none."""
        inference = self.inference(bias)
        return None if inference is None else inference.residual_variance

    def scaling(self, names: Sequence[str]) -> Scaling:
        """Mean and standard deviation of the columns of X.

        Raises:
            InputError: a column has one value only.
        """
        assert self.factor is not None
        scaling = column_scaling(self.factor)
        for name, mean, scale in zip(names, scaling.mean.tolist(), scaling.scale.tolist(), strict=True):
            if scale <= ROUNDING * abs(mean):  # a constant has no deviation at all, but a checkpoint may have rounded
                raise InputError(
                    f"column {name!r} has one value only, so it cannot be standardised: leave it out of --data.features"
                )
        return scaling


def _require_squarable(name: str, size: float) -> None:
    if size != 0 and not 1e-150 < size < 1e150:
        what = "small" if size < 1 else "large"
        raise InputError(f"column {name!r}: its values are too {what} to be squared in float64; rescale the column")
