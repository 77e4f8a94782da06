"""Statistical inference for a least-squares fit, under independent errors.

Standard formulas (Draper and Smith, Applied Regression Analysis, chapters 1 and 5; R², F,
AIC and BIC are defined as in statsmodels' OLS), computed from the triangular factor:
``(XᵀX)⁻¹ = R⁻¹R⁻ᵀ``.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from linreg_pl.functional.covariance import Covariance
from linreg_pl.functional.factors import triangularize
from linreg_pl.functional.least_squares import Solution, condition_number, matrix_rank, total_sum_of_squares


class WaldTest(NamedTuple):
    """Test of linear constraints: the F statistic and its two degrees of freedom."""

    f: float
    num_constraints: int
    dof: int

    @property
    def p(self) -> float:
        """Probability of as large an F if the constraints hold."""
        from scipy.special import fdtrc

        return float(fdtrc(self.num_constraints, self.dof, self.f))


@dataclass(frozen=True)
class Inference:
    """Standard errors and tests of a least-squares solution without penalty.

    Vectors have one element per coefficient, the bias first if there is one.

    Args:
        solution: the optimum, of more rows than coefficients.
        level: confidence level of the intervals.
        covariance: of the coefficients; by default the classical one, for errors of equal variance.

    Raises:
        ValueError: there are no degrees of freedom, or the solution is penalised.
    """

    solution: Solution
    level: float = 0.95
    covariance: Covariance | None = None

    def __post_init__(self) -> None:
        if self.dof <= 0:
            raise ValueError(f"{self.solution.num_rows} rows leave no degrees of freedom")
        if self.solution.penalty:
            raise ValueError("standard errors are defined only for a fit without penalty")

    @property
    def dof(self) -> int:
        """Degrees of freedom of the residuals: rows minus coefficients."""
        return self.solution.num_rows - len(self.solution.theta)

    @cached_property
    def vif(self) -> Tensor:
        """Variance inflation factors of the weights, ``1 / (1 - R²)`` of each column on the others, shape ``(P,)``."""
        bias = int(self.solution.has_bias)
        inverse, columns = self.inverse_factor[bias:, bias:], self.solution.factor[bias:-1, bias:-1]
        factors: Tensor = (inverse.norm(dim=1) * columns.norm(dim=0)).square()
        return factors

    @property
    def test_dof(self) -> int:
        """Degrees of freedom of t and F: those of the residuals, or with clusters their number minus 1."""
        return self.dof if self.covariance is None else self.covariance.dof(self.dof)

    @property
    def residual_sum_of_squares(self) -> float:
        """``|y - ŷ|²``."""
        return float(self.solution.factor[-1, -1].square())

    @property
    def residual_variance(self) -> float:
        """Unbiased estimate of the noise variance, below which no mean squared error is expected to fall."""
        return self.residual_sum_of_squares / self.dof

    @property
    def residual_std(self) -> float:
        """Estimate of the noise's standard deviation, in the target's unit."""
        return math.sqrt(self.residual_variance)

    @cached_property
    def inverse_factor(self) -> Tensor:
        """R⁻¹ of the coefficient columns, shape ``(p, p)``."""
        R = self.solution.factor[:-1, :-1]
        inverse: Tensor = torch.linalg.solve_triangular(R, torch.eye(len(R), dtype=R.dtype), upper=True)
        return inverse

    @property
    def covariance_root(self) -> Tensor:
        """``G``, shape ``(p, p)``, where ``G Gᵀ`` is the covariance of the coefficients."""
        return self.residual_std * self.inverse_factor if self.covariance is None else self.covariance.root

    @cached_property
    def standard_errors(self) -> Tensor:
        """Standard error of every coefficient, shape ``(p,)``."""
        lengths: Tensor = self.covariance_root.norm(dim=1)
        return lengths

    @cached_property
    def t(self) -> Tensor:
        """The t statistics: coefficients divided by their standard errors, shape ``(p,)``."""
        return self.solution.theta / self.standard_errors

    @cached_property
    def p(self) -> Tensor:
        """Two-sided p-values of the hypotheses that a coefficient is zero, shape ``(p,)``."""
        from scipy.special import stdtr

        return torch.from_numpy(2 * stdtr(self.test_dof, -self.t.abs().numpy()))

    @property
    def t_quantile(self) -> float:
        """Half width of a confidence interval in standard errors."""
        from scipy.special import stdtrit

        return float(stdtrit(self.test_dof, (1 + self.level) / 2))

    @cached_property
    def confidence_intervals(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the coefficients, shapes ``(p,)``."""
        half = self.t_quantile * self.standard_errors
        return self.solution.theta - half, self.solution.theta + half

    @property
    def total_sum_of_squares(self) -> float:
        """``|y - ȳ|²``, or ``|y|²`` without bias."""
        return total_sum_of_squares(self.solution.factor, self.solution.has_bias)

    @property
    def explained_sum_of_squares(self) -> float:
        """``|ŷ - ȳ|²``, or ``|ŷ|²`` without bias; not computed as a difference, which would lose digits."""
        return float(self.solution.factor[int(self.solution.has_bias) : -1, -1].square().sum())

    @property
    def r2(self) -> float:
        """Share of the total sum of squares that is explained; NaN for a constant target."""
        total = self.total_sum_of_squares
        return 1 - self.residual_sum_of_squares / total if total else math.nan

    @property
    def adjusted_r2(self) -> float:
        """R² with variances in place of sums of squares."""
        return 1 - (self.solution.num_rows - int(self.solution.has_bias)) / self.dof * (1 - self.r2)

    def wald(self, C: Tensor, d: Tensor) -> WaldTest:
        """Test the hypothesis ``C θ = d`` by ``|S⁻¹ (C θ - d)|² / q``, where ``S Sᵀ`` is the covariance of ``C θ``.

        Args:
            C: q linearly independent rows of factors of the coefficients, shape ``(q, p)``.
            d: shape ``(q,)``.
        """
        if self.covariance is not None and self.covariance.clusters and self.test_dof < len(C):
            return WaldTest(math.nan, len(C), self.test_dof)  # fewer clusters than constraints
        S = triangularize((C @ self.covariance_root).mT)
        z = torch.linalg.solve_triangular(S.mT, (C @ self.solution.theta - d)[:, None], upper=False)
        return WaldTest(float(z.square().mean()), len(C), self.test_dof)

    @cached_property
    def f_test(self) -> WaldTest:
        """Test of the hypothesis that all weights are zero."""
        weight = self.solution.weight
        if self.covariance is None:
            return WaldTest(self.explained_sum_of_squares / len(weight) / self.residual_variance, len(weight), self.dof)
        all_but_bias = torch.eye(len(self.solution.theta), dtype=weight.dtype)[int(self.solution.has_bias) :]
        return self.wald(all_but_bias, torch.zeros_like(weight))

    @property
    def f(self) -> float:
        """F statistic of the hypothesis that all weights are zero; with another covariance, Wald's."""
        return self.f_test.f

    @property
    def f_p(self) -> float:
        """p-value of the F statistic."""
        return self.f_test.p

    @property
    def log_likelihood(self) -> float:
        """Maximum of the log-likelihood under normal errors."""
        n = self.solution.num_rows
        return -n / 2 * (math.log(2 * math.pi) + math.log(self.residual_sum_of_squares / n) + 1)

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return 2 * len(self.solution.theta) - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's Bayesian information criterion."""
        return math.log(self.solution.num_rows) * len(self.solution.theta) - 2 * self.log_likelihood

    def joint_distance(self, weight: Tensor, bias: Tensor) -> float:
        """``|R (θ - θ*)|² / (p s²)`` of any coefficients θ, the F statistic of the hypothesis that they are the truth.

        Args:
            weight: shape ``(P,)``, for the columns as they are.
            bias: a scalar; ignored if the solution has none.
        """
        theta = torch.cat([bias.reshape(1), weight]) if self.solution.has_bias else weight
        away = self.solution.factor[:-1, :-1] @ (theta - self.solution.theta)
        return float(away.square().sum()) / len(theta) / self.residual_variance

    def prediction_standard_errors(self, X: Tensor, weight: Tensor | None = None) -> Tensor:
        """Standard error of a new observation at every row of X.

        Args:
            X: features in their own units, shape ``(n, P)``.
            weight: of each row, shape ``(n, 1)``, in the unit of the training rows' weights, so that the variance of
                the row's noise is the residual variance divided by it; ones by default.

        Returns:
            Shape ``(n,)``; includes both the noise and the uncertainty of the coefficients.
        """
        R, inverse = self.solution.factor, self.inverse_factor[self.solution.has_bias :, self.solution.has_bias :]
        X, leverage = X.double(), 0.0
        if self.solution.has_bias:  # the distance to the means, which are large where columns have few deviations
            X, leverage = X - R[0, 1:-1] / R[0, 0], 1 / self.solution.num_rows
        noise = 1.0 if weight is None else 1 / weight[:, 0].double()
        return self.residual_std * (noise + leverage + (X @ inverse).square().sum(dim=1)).sqrt()

    def summary(self) -> dict[str, float]:
        """Return the statistics of the fit as a whole, without those that are not finite."""
        n = self.solution.num_rows
        values = {
            "mse": self.residual_sum_of_squares / n,
            "residual_std": self.residual_std,
            "dof": self.dof,
            "r2": self.r2,
            "adjusted_r2": self.adjusted_r2,
            "rank": matrix_rank(self.solution.factor, self.solution.has_bias),
            "condition_number": condition_number(self.solution.factor),
        }
        if self.residual_sum_of_squares > 0 and self.total_sum_of_squares > 0:
            values |= {"f": self.f, "f_p": self.f_p, "aic": self.aic, "bic": self.bic}
        return {name: value for name, value in values.items() if math.isfinite(value)}


def infer(solution: Solution | None, level: float = 0.95, covariance: Covariance | None = None) -> Inference | None:
    """Return the inference for a solution; None if it has a penalty or no degrees of freedom."""
    if solution is None or solution.penalty or solution.num_rows <= len(solution.theta):
        return None
    return Inference(solution, level, covariance)


def noise_floor(solution: Solution | None) -> float | None:
    """Return the estimated noise variance, in the squared unit of the target; None if it cannot be estimated."""
    inference = infer(solution)
    return None if inference is None else inference.residual_variance
