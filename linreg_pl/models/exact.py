"""The least-squares optimum in one pass over the data."""

import re

from torch import Tensor

from linreg_pl.data.base import data_of
from linreg_pl.errors import InputError, require_not_negative
from linreg_pl.functional.factors import shifted_factor, unshifted
from linreg_pl.functional.least_squares import RankDeficientError, column_std, num_rows, solve
from linreg_pl.metrics.least_squares import TriangularFactor
from linreg_pl.models.one_pass import OnePass


class Exact(OnePass):
    """Linear regression by streaming Householder QR in float64; no lr, no SGD, one epoch.

    Args:
        num_features: columns of X.
        bias: whether there is an intercept.
        ridge: minimise ``|y - Xw - b|² + ridge |w|²`` instead, with the weights of the
            standardised columns in the penalty where the data are standardised. It is the
            number of training rows times the ``weight_decay`` of `Scratch`.
    """

    minimum_norm = False  # True takes the shortest weight where the rows do not determine it, instead of refusing

    def __init__(self, num_features: int, bias: bool = True, ridge: float = 0.0) -> None:
        super().__init__(num_features, bias)
        require_not_negative("--model.ridge", ridge)
        self.ridge = ridge
        self.factors = TriangularFactor(num_features, shifted=True)

    def factor(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the shifted factor of some rows."""
        return shifted_factor(*batch)

    def solve(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the optimum from the shifted factor of all rows; InputError if it is not unique."""
        data, count, wanted = data_of(self.trainer), num_rows(factors), len(self.w) + self.has_bias
        if data is not None:
            data.set_factor(factors)
        factor = unshifted(factors)
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
        return solution.weight, solution.bias

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
        if getattr(data_of(self.trainer), "formula", None) is not None:
            where = "the formula"
            mend += "; a spline beside an intercept wants constraints='center'" if re.search(r"c[crs]\(", out) else ""
        return f"the coefficients are not unique: {'; '.join(said)}. Leave {out} out of {where}{mend}"

    @property
    def biased_objective(self) -> bool:
        """Whether the ridge penalty pulls the weights from the optimum."""
        return self.ridge > 0

    def describe(self) -> str:
        """The method and its size."""
        return f"least squares by Householder QR of [1 X y], {self.w.shape[0]} features"
