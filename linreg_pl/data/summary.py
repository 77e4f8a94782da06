"""What is known of the training rows once their triangular factor is."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from linreg_pl.errors import InputError
from linreg_pl.functional.covariance import Covariance
from linreg_pl.functional.factors import shifted, unshifted
from linreg_pl.functional.inference import Inference, infer
from linreg_pl.functional.least_squares import Solution, unique_solution
from linreg_pl.functional.standardize import Scaling, column_scaling

ROUNDING = 2.0**-52  # of a mean in float64: a column that varies by less has one value


class TrainingSummary:
    """The triangular factor of ``[1 X y]`` over the training rows, in raw units, and what follows from it.

    Attributes:
        factor: shape ``(P + 2, P + 2)``, float64; None while it is not known.
        shifted: the same with a shift, shape ``(P + 3, P + 2)``, to be merged with others.
        covariance: of the optimum's coefficients, if it is not the classical one.
        diagnostics: what its residuals look like, if that was asked for.
    """

    def __init__(self) -> None:
        self.set_factor(None)

    def set_factor(self, factor: Tensor | None, names: Sequence[str] = ()) -> None:
        """Set the factor.

        Args:
            factor: shifted or not, on the CPU; None if it is not known.
            names: of the columns of X and of y, to be checked.

        Raises:
            InputError: the values of a column are too large or too small to be squared.
        """
        self.factor = self.shifted = factor
        self.covariance: Covariance | None = None
        self.diagnostics: dict[str, Any] | None = None
        self._optima: dict[bool, Solution | None] = {}
        if factor is None:
            return
        if len(factor) == factor.shape[1]:
            self.shifted = shifted(factor)
        else:
            self.factor = factor = unshifted(factor)
        for name, size in zip(names, factor.abs().amax(dim=0)[1:].tolist(), strict=bool(names)):
            if size != 0 and not 1e-150 < size < 1e150:
                raise InputError(
                    f"column {name!r}: its values are too {'small' if size < 1 else 'large'} to be squared in float64;"
                    " rescale the column"
                )

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
        """Standard errors and tests of the optimum, and intervals of a confidence level; None if there are none."""
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
