"""Ridge, lasso and what lies between, the penalty chosen by cross-validation in one pass over the data."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from linreg_pl.data.base import DataModule, data_of
from linreg_pl.data.folds import Folds
from linreg_pl.data.prepared import BLOCKS_PER_STEP
from linreg_pl.errors import InputError, require_not_negative
from linreg_pl.functional.elastic_net import CrossValidation, Problem, Rule, cross_validate
from linreg_pl.functional.factors import merge_shifted, shifted_factor, triangularize, unshifted
from linreg_pl.functional.least_squares import Solution, unique_solution
from linreg_pl.metrics.least_squares import TriangularFactor
from linreg_pl.models.one_pass import OnePass


class Path(NamedTuple):
    """Solutions over the penalties."""

    penalties: Tensor  # (L,), the largest first
    weights: Tensor  # (L, P), for the columns that are penalised, which may be standardised
    chosen: int  # place of the penalty that was taken
    validated: CrossValidation | None


class ElasticNet(OnePass):
    """Minimises ``|y - Xw - b|²/(2n) + penalty (l1_ratio |w|₁ + (1 - l1_ratio)/2 |w|²)`` (Zou and Hastie 2005).

    The penalty is on the weights of standardised columns where the data are standardised, as scikit-learn's after a
    ``StandardScaler``. Cross-validation needs the factors of the folds alone: see `linreg_pl.functional.elastic_net`.

    Args:
        num_features: columns of X.
        penalty: a number, or "cv" to choose one by cross-validation.
        l1_ratio: 1 for the lasso, 0 for ridge; of several the one with the smallest cross-validated error is taken.
        folds: of the cross-validation. A draw by the data's seed deals the rows of the table out to them.
        num_penalties: to choose from: from the smallest for which all weights are 0 down to a thousandth of the
            lasso's.
        rule: "min" takes the penalty with the smallest error, "1se" the largest within one standard error of it.
        nonnegative: whether weights may not be below 0.
        refit: whether the columns that are left are fitted again by least squares, without a penalty.
        bias: whether there is an intercept.

    Attributes:
        details: what the report tells of the choice.
        path: the solutions over the penalties, once they are found.
        submodel: the least-squares solution on the columns that are left, if it was asked for.
    """

    factors: TriangularFactor
    fold_factors: Tensor | None = None
    path: Path | None = None
    submodel: Solution | None = None

    def __init__(
        self,
        num_features: int,
        penalty: float | Literal["cv"] = "cv",
        l1_ratio: float | Sequence[float] = 1.0,
        folds: int = 10,
        num_penalties: int = 100,
        rule: Rule = "min",
        nonnegative: bool = False,
        refit: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, bias)
        given: Any = l1_ratio
        self.l1_ratios = [_number("l1_ratio", one) for one in (given if isinstance(given, (list, tuple)) else [given])]
        if not self.l1_ratios or not all(0 <= ratio <= 1 for ratio in self.l1_ratios):
            raise InputError(f"--model.l1_ratio {l1_ratio}: must lie between 0 (ridge) and 1 (lasso)")
        if penalty != "cv":
            penalty = _number("penalty", penalty)
            require_not_negative("--model.penalty", penalty)
            if len(self.l1_ratios) > 1:
                raise InputError(f"--model.l1_ratio {l1_ratio}: is chosen only with --model.penalty cv; give one")
        if not 2 <= _number("folds", folds) < 2**16 or folds != int(folds):
            raise InputError(f"--model.folds {folds}: cross-validation needs two folds at least, and at most 65,535")
        if rule not in get_args(Rule):
            raise InputError(f"--model.rule {rule}: choose one of {', '.join(get_args(Rule))}")
        if num_penalties < 2:
            raise InputError(
                f"--model.num_penalties {num_penalties}: there is nothing to choose from; give two at least"
            )
        self.penalty, self.num_penalties, self.rule = penalty, num_penalties, rule
        self.nonnegative, self.refit = nonnegative, refit
        self.details: dict[str, Any] = {}
        self.num_folds = int(folds) if penalty == "cv" else 1
        self.factors = TriangularFactor(num_features, shifted=True, num_folds=self.num_folds)

    def connect(self, data: DataModule, stage: str) -> None:
        """Ask for factors of folds; InputError for so many that they would not fit into memory."""
        super().connect(data, stage)
        needed = (BLOCKS_PER_STEP + 2) * self.factors.summary.numel() * 8 / 2**20
        if needed > data.memory:
            raise InputError(
                f"--model.folds {self.num_folds}: the factors of so many folds need {needed:.0f} MiB;"
                " take fewer, or raise --data.memory"
            )
        if stage == "fit":
            data.folds = Folds(self.num_folds, data.seed, data.num_table_rows, data.group_keys)

    def on_train_epoch_start(self) -> None:
        """Begin with no rows."""
        super().on_train_epoch_start()
        self._num_drawn = 0

    def factor(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the factors of folds that are drawn for the rows of a batch."""
        generator = torch.Generator().manual_seed(batch_idx * self.trainer.world_size + self.trainer.global_rank)
        folds = (torch.randperm(len(batch[0]), generator=generator) + self._num_drawn) % self.num_folds
        self._num_drawn += len(batch[0])
        rows = (folds == fold for fold in range(self.num_folds))
        return torch.stack([shifted_factor(*(column[some] for column in batch)) for some in rows])

    def solve(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients from the factors of the folds; InputError if fewer than two have rows."""
        self.fold_factors, data, total = factors, data_of(self.trainer), merge_shifted(factors)
        if data is not None:
            data.set_factor(total)
        standardize = data is not None and data.standardize
        problem = Problem(total, self.has_bias, standardize)
        paths = [problem.penalties(ratio, self.num_penalties) for ratio in self.l1_ratios]
        if self.penalty == "cv":
            shared = self.has_bias, standardize, self.nonnegative
            try:
                found = [cross_validate(factors, *one, *shared) for one in zip(paths, self.l1_ratios, strict=True)]
            except ValueError as error:
                raise InputError(
                    f"--model.folds {self.num_folds}: {error}; use more rows, or give a penalty"
                ) from error
            least = [float(one.mse.min()) for one in found]
            best = least.index(min(least))
            ratio, validated = self.l1_ratios[best], found[best]
            penalties, chosen = validated.penalties, validated.choose(self.rule)
        else:
            ratio, validated = self.l1_ratios[0], None
            larger = paths[0][paths[0] > self.penalty]
            penalties, chosen = torch.cat([larger, larger.new_tensor([self.penalty])]), len(larger)
        weights = problem.path(penalties, ratio, self.nonnegative)
        self.path, v = Path(penalties, weights, chosen, validated), weights[chosen]
        penalty, left = float(penalties[chosen]), v != 0
        self.details = {
            "penalty": penalty,
            "l1_ratio": ratio,
            "columns_left": int(left.sum()),
            "effective_dof": problem.degrees_of_freedom(v, penalty * (1 - ratio)),
            "duality_gap": float(problem.gaps(weights, penalties, ratio, self.nonnegative).max()),
        }
        if validated is not None:
            self.details["cv"] = {
                "penalty": penalties.tolist(),
                "mse": validated.mse.tolist(),
                "se": validated.se.tolist(),
                "chosen": penalty,
                "rule": self.rule,
                "folds": validated.num_folds,
            }
            if len(found) > 1:
                self.details["cv"]["l1_ratios"] = dict(zip(map(str, self.l1_ratios), least, strict=True))
        weight, bias = problem.coefficients(v)
        if self.refit and left.any():
            columns = [0, *(left.nonzero().flatten() + 1).tolist(), len(left) + 1]
            self.submodel = unique_solution(triangularize(unshifted(total)[:, columns]), self.has_bias)
            if self.submodel is None:
                raise InputError("--model.refit: the columns that are left have no unique optimum; leave it out")
            weight, bias = torch.zeros_like(weight), self.submodel.bias
            weight[left] = self.submodel.weight
        return weight, bias

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the factors of the folds, from which other penalties can be taken, and what is known of the choice."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["details"] = self.details
        checkpoint["fold_factors"] = self.fold_factors

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what is kept."""
        super().on_load_checkpoint(checkpoint)
        self.details, self.fold_factors = checkpoint.get("details", {}), checkpoint.get("fold_factors")

    @property
    def biased_objective(self) -> bool:
        """Whether the solution is not the least-squares optimum: it is not, by the penalty or the selection."""
        return True

    def describe(self) -> str:
        """The method and its size."""
        return f"elastic net by coordinate descent on the factor of [1 X y], {self.w.shape[0]} features"


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        also = ", or cv" if name == "penalty" else ""
        raise InputError(f"--model.{name} {value}: must be a number{also}") from error
