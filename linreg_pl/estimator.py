"""The models as an estimator of scikit-learn."""

import math
import re
import warnings
from typing import Any, get_args

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from linreg_pl.callbacks.arrival import Optimum, shortfall
from linreg_pl.callbacks.stability import Stability
from linreg_pl.data.arrays import Arrays
from linreg_pl.data.second_pass import look_again
from linreg_pl.engine import Trainer
from linreg_pl.engine.quiet import quieten
from linreg_pl.errors import InputError, require_not_negative, require_positive
from linreg_pl.functional.constraints import parse_constraints
from linreg_pl.functional.covariance import CovarianceKind
from linreg_pl.functional.inference import Inference, WaldTest
from linreg_pl.models import Concise, ElasticNet, Exact, Fused, LinearModel, Scratch
from linreg_pl.models.sgd import SGDModel

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_random_state, validate_data
except ImportError as error:
    raise ImportError(
        'LinearRegressor needs scikit-learn 1.6 or newer: python -m pip install "linreg_pl[sklearn]"'
    ) from error

COVARIANCES = tuple(kind for kind in get_args(CovarianceKind) if kind != "cluster")
METHODS: dict[str, Any] = {"exact": Exact, "fused": Fused, "scratch": Scratch, "concise": Concise}
SILENT = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


class LinearRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Linear regression by one of this project's models, under its Trainer, as scikit-learn's estimators work.

    Args:
        method: "exact" finds the optimum in one pass; "fused", "scratch" and "concise" take SGD steps as the
            models of these names do, from zero. SGD wants columns of one scale: a ``StandardScaler`` before it.
        fit_intercept: whether there is an intercept.
        ridge: minimises ``Σ sample_weight (y - Xw - b)² + ridge |w|²``, as ``alpha`` of scikit-learn's ``Ridge``.
        penalty: for "exact": minimises ``|y - Xw - b|²/(2n) + penalty (l1_ratio |w|₁ + (1 - l1_ratio)/2 |w|²)``, as
            ``alpha`` of scikit-learn's ``ElasticNet``; "cv" chooses by cross-validation. None for none.
        l1_ratio: 1 for the lasso, 0 for ridge, or several to choose from.
        folds: of the cross-validation, drawn by ``random_state``.
        lr: step size of SGD; by default a quarter of the largest stable one on the rows at hand.
        batch_size: rows in one mini-batch of SGD.
        max_epochs: passes of SGD over the rows.
        random_state: decides the order of the rows in SGD.
        covariance: of the standard errors: "classical" for errors of equal variance, "HC0" to "HC3" for any.
        diagnostics: whether to look at the residuals of the optimum, by one more pass over the rows.

    Attributes:
        coef_: weights, shape ``(n_features,)``; where the rows do not determine them, those of smallest norm.
        intercept_: the bias, a float.
        standard_error_: standard errors of the optimum's weights, shape ``(n_features,)``, under ``sample_weight``
            those of weighted least squares. NaN with ``ridge``, or where the rows do not determine them.
        intercept_standard_error_: that of the bias; 0 without one.
        covariance_: covariance of the optimum's coefficients, the bias last if there is one, shape ``(p, p)``.
        penalty_: the strength that was taken, and ``l1_ratio_``; where there is a ``penalty``.
        path_: penalties, shape ``(L,)``, and weights, shape ``(L, n_features)``; where there is a ``penalty``.
        cv_: for "cv" what ``report.json`` tells: each penalty, its mean squared error and standard error.
        diagnostics_: what the residuals of the optimum say about its assumptions, as in ``report.json``: see
            `linreg_pl.functional.diagnostics`. None with ``ridge``, without residuals, or where it was not asked for.
        n_features_in_: number of columns.
        feature_names_in_: their names, where all are strings.

    Example:
        >>> model = LinearRegressor().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
        >>> model.predict([[3.0]]).round(12)
        array([7.])
    """

    coef_: np.ndarray
    intercept_: float
    _inference: Inference | None
    _shortfall: str
    _earlier: tuple[int, float, np.ndarray]  # rows, their weights' sum, their shifted factor with weights of mean 1

    def __init__(
        self,
        method: str = "exact",
        *,
        fit_intercept: bool = True,
        ridge: float = 0.0,
        penalty: float | str | None = None,
        l1_ratio: Any = 1.0,
        folds: int = 10,
        lr: float | None = None,
        batch_size: int = 10,
        max_epochs: int = 50,
        random_state: Any = None,
        covariance: CovarianceKind = "classical",
        diagnostics: bool = False,
    ) -> None:
        self.method = method
        self.fit_intercept = fit_intercept
        self.ridge = ridge
        self.penalty = penalty
        self.l1_ratio = l1_ratio
        self.folds = folds
        self.lr = lr
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.covariance = covariance
        self.diagnostics = diagnostics

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LinearRegressor":
        """Fit, and forget what was fitted before.

        Args:
            X: features, shape ``(n, P)``: an array, or a data frame of numbers.
            y: target, shape ``(n,)``.
            sample_weight: what the squared error of each row counts, shape ``(n,)``.

        Raises:
            InputError: a ValueError; an argument cannot be used, or SGD diverges.

        Warns:
            ConvergenceWarning: SGD did not come near the optimum.
        """
        self._fit(X, y, sample_weight, True, self.max_epochs)
        if self._shortfall:
            warnings.warn(self._shortfall, ConvergenceWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LinearRegressor":
        """Learn from more rows; arguments and errors are those of ``fit``.

        "exact" ends where ``fit`` on all rows together would, to rounding, in any order and in memory that
        depends on the number of columns alone. SGD takes one more pass, over the new rows.
        """
        if self.covariance != "classical" or self.diagnostics or self.penalty is not None:
            what = "diagnostics" if self.diagnostics else f"covariance {self.covariance!r}"
            what = what if self.penalty is None else f"penalty {self.penalty!r}"
            raise InputError(f"{what}: needs all rows at once; use fit")
        return self._fit(X, y, sample_weight, not hasattr(self, "coef_"), 1)

    def predict(self, X: Any) -> np.ndarray:
        """Predict ``(n,)`` from features ``(n, P)``, float64."""
        check_is_fitted(self)
        prediction: np.ndarray = validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_ + self.intercept_
        return prediction

    def wald(self, constraints: str) -> WaldTest:
        """Test linear constraints on the optimum's coefficients jointly, by ``covariance``.

        Args:
            constraints: such as ``"x0 = 2 * x1, bias = 0"``; the intercept is ``bias``, and names that are no plain
                words stand in braces.

        Raises:
            InputError: the constraints cannot be read, or there are no standard errors.
        """
        check_is_fitted(self)
        if self._inference is None:
            raise InputError("wald: with a penalty, or where rows do not determine them, coefficients have no tests")
        return self._inference.wald(*parse_constraints(constraints, ["bias"] * self.fit_intercept + self._names))

    @property
    def _names(self) -> list[str]:
        return list(getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)]))

    def _fit(self, X: Any, y: Any, sample_weight: Any, first: bool, max_epochs: int) -> "LinearRegressor":
        X, y = validate_data(self, X, y, reset=first, dtype=[np.float64, np.float32], y_numeric=True)
        rows_given = len(y)
        for name in {"penalty_", "l1_ratio_", "path_", "cv_"} & vars(self).keys():
            delattr(self, name)
        rows_seen, weight_seen, factor = (0, 0.0, None) if first else self._earlier
        weight = None
        if sample_weight is not None or weight_seen != rows_seen:
            X, y, weight = _that_count(X, y, _check_sample_weight(sample_weight, X, dtype=np.float64))
        num_rows = rows_seen + len(y)
        total = weight_seen + (len(y) if weight is None else weight.sum())
        share = num_rows / total  # makes the weights of all rows 1 on average
        try:
            data = self._data([X, y.astype(np.float64, copy=False), *([] if weight is None else [weight * share])])
            if factor is not None:
                data.earlier = torch.from_numpy(factor).clone()
                data.earlier[:-1] *= math.sqrt(share * weight_seen / rows_seen)  # but not the shift
            model = self._model(data, self.ridge / total, num_rows)
            if not (first or model.lr is None):
                _start_from(model, self.coef_, self.intercept_)
            _train(model, data, max_epochs)
        except InputError as error:
            said = str(error).replace(" (--guard false tries it all the same)", "")
            said = said.replace("--data.standardize true", "a StandardScaler before it")
            raise InputError(re.sub(r"--(model|data)\.", "", said)) from None
        coefficients, bias = model.coefficients()
        if (self.covariance != "classical" or self.diagnostics) and not model.biased_objective:
            look_again(data, self.covariance, model.has_bias, self.diagnostics)
        self.diagnostics_ = data.summary.diagnostics
        if self.diagnostics_ is not None and sample_weight is not None:  # those of weight 0 were left out
            rows = np.flatnonzero(np.broadcast_to(sample_weight, rows_given))
            for row in self.diagnostics_["influential"]:
                row["row"] = int(rows[row["row"]])
        self._shortfall = "" if model.lr is None else shortfall(data, model)
        self._inference = inference = None if model.biased_objective else data.summary.inference(model.has_bias)
        errors = np.full(X.shape[1] + 1, math.nan) if inference is None else inference.standard_errors.numpy()
        order = np.roll(np.arange(X.shape[1] + model.has_bias), -int(model.has_bias))  # the bias last
        root = np.full((len(order), 1), math.nan) if inference is None else inference.covariance_root.numpy()[order]
        self.covariance_ = root @ root.T
        self.coef_, self.intercept_ = coefficients.numpy(), bias.item()
        if isinstance(model, ElasticNet) and model.path is not None:
            self.penalty_, self.l1_ratio_ = model.details["penalty"], model.details["l1_ratio"]
            self.path_ = model.path.penalties.numpy(), model.path.weights.numpy()
            self.cv_ = model.details.get("cv")
        self.standard_error_ = errors[-X.shape[1] :]
        self.intercept_standard_error_ = float(errors[0]) if self.fit_intercept else 0.0
        data.find_factor()
        self._earlier = num_rows, float(total), data.summary.shifted.numpy()  # type: ignore[union-attr]
        vars(model.trainer).clear()  # its parts hold each other, and with them the rows, until Python looks for such
        return self

    def _data(self, columns: list[np.ndarray]) -> Arrays:
        exact = self.method == "exact"  # takes the rows in any order, and no number from a random state
        drawn = not exact or (self.penalty is not None and self.random_state is not None)
        seed = check_random_state(self.random_state).randint(2**31 - 1) if drawn else 0
        data = Arrays(self.batch_size, seed, standardize=False)
        data.feature_names, data.weighted = self._names, len(columns) > 2
        data.arrays = [columns[0], *(column.reshape(-1, 1) for column in columns[1:])]
        return data

    def _model(self, data: Arrays, ridge: float, num_rows: int) -> LinearModel:
        """The model of ``method``; ``ridge`` is per row, of which there are ``num_rows``."""
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.covariance not in COVARIANCES:
            raise InputError(f"covariance {self.covariance!r}: choose one of {', '.join(COVARIANCES)}")
        require_not_negative("ridge", self.ridge)
        require_positive("max_epochs", self.max_epochs)
        if self.penalty is not None:
            if self.method != "exact" or self.ridge:
                raise InputError('penalty: is for method "exact", without ridge')
            ratios, bias = np.asarray(self.l1_ratio).tolist(), self.fit_intercept
            return ElasticNet(data.num_features, self.penalty, ratios, self.folds, bias=bias)  # type: ignore[arg-type]
        if self.method == "exact":
            exact = Exact(data.num_features, self.fit_intercept, ridge * num_rows)
            exact.minimum_norm = True
            return exact
        lr = "auto" if self.lr is None else self.lr
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws a start of its own first
            model: SGDModel = METHODS[self.method](data.num_features, lr, self.fit_intercept, init_std=0.0)
        model.weight_decay = 2 * model.squared_error_scale * ridge  # type: ignore[operator]
        return model


def _that_count(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """Leave rows of weight 0 out: they are no observations."""
    if (weight < 0).any():
        raise InputError(f"sample_weight {weight.min():g}: must be zero or a positive number")
    counts = weight > 0
    if not counts.any():
        raise InputError("sample_weight: all weights are zero")
    return [X, y, weight] if counts.all() else [X[counts], y[counts], weight[counts]]


@torch.no_grad()
def _start_from(model: LinearModel, coef: np.ndarray, intercept: float) -> None:
    weight, bias = model.parameter_vectors()
    weight.copy_(torch.from_numpy(coef).reshape(weight.shape))
    if bias is not None:
        bias.fill_(intercept)


def _train(model: LinearModel, data: Arrays, max_epochs: int) -> None:
    """Fit without a word, a file, or a change to the process."""
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            quieten()
            model.companions = (Optimum, Stability)
            alone = LightningEnvironment()  # whatever cluster's job this process belongs to
            off = dict.fromkeys(SILENT, False)
            trainer = Trainer(accelerator="cpu", devices=1, max_epochs=max_epochs, plugins=alone, **off)
            trainer.fit(model, datamodule=data)
    except SystemExit as ctrl_c:  # the Trainer's answer to it
        raise KeyboardInterrupt from ctrl_c
