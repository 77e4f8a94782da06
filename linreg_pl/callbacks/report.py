"""Collects a run's report and leaves it in the run's folder."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from torch import Tensor

from linreg_pl.callbacks.arrival import joint_distance, why_not_there
from linreg_pl.callbacks.curves import find_callback
from linreg_pl.callbacks.scores import EpochScores
from linreg_pl.data.base import DataModule, data_of
from linreg_pl.data.second_pass import look_again
from linreg_pl.errors import InputError
from linreg_pl.files import atomic_write
from linreg_pl.functional.covariance import FEW_CLUSTERS, Covariance, CovarianceKind
from linreg_pl.functional.inference import Inference, infer
from linreg_pl.functional.least_squares import (
    explains_exactly,
    residual_sum_of_squares,
    standardized_coefficients,
    total_sum_of_squares,
)
from linreg_pl.runs import report
from linreg_pl.runs.logger import run_loggers

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel

ABOUT = """\
| tab | what |
| --- | --- |
| Custom Scalars | the run at a glance; columns whose names have a parenthesis are in Time Series only |
| Time Series, Scalars | every curve by its name |
| HParams | all runs side by side: what was set, and how well the rows are fitted |
| Text | *coefficients*: the result in numbers; *config*: what was run |

Curves, over SGD steps; set *Smoothing* to 0 to see the numbers as they are:

| curve | what | unit |
| --- | --- | --- |
| weight/NAME, bias | estimate of a coefficient | of the target, per unit of column NAME |
| distance/NAME | estimate minus optimum, the exact least-squares solution on the training rows | the same |
| log10/train_mse | log10 of the mean squared error over all training rows | of the target, squared |
| log10/val_mse | log10 of the mean squared error over all validation rows | of the target, squared |
| log10/noise_floor | log10 of the noise variance: lower no fit can be expected to get | of the target, squared |
| train/batch_loss | loss of one mini-batch | of the loss |
| train/loss, val/loss | the model's own loss after each epoch: half the mse for scratch and fused | of the loss |
| train/mse, val/mse | mean squared error after each epoch: compare models by this | of the target, squared |
| train/rmse, val/rmse | its square root | of the target |
| train/r2, val/r2 | share of the target's variance that is explained; 1 is best | none |
"""


@dataclass(eq=False)
class RunReport(L.Callback):
    """Writes ``report.json`` and ``coefficients.csv`` and prints them."""

    folder: Path | None = None  # of the run, where the Trainer has none: that of the checkpoint
    confidence_level: float = 0.95  # probability that an interval covers the true coefficient
    guard: bool = False  # whether a fit fails that predicts its own training rows worse than their mean
    covariance: CovarianceKind = "classical"  # of the standard errors; others take one more pass over the training rows
    diagnostics: bool = False  # whether to tell what the residuals look like, from the same pass
    beta: bool = False  # whether to give standardised coefficients too
    _start: float = field(default=0.0, init=False)
    _looked: bool = field(default=False, init=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the clock, and say in TensorBoard what is run and what there is to see."""
        self._start, self._looked = time.perf_counter(), False
        config = Path(trainer.log_dir or "", "config.yaml")  # all processes must ask
        if getattr(pl_module, "largest_lr", None) is not None and trainer.is_global_zero:
            print(f"lr {pl_module.lr:.4g}, a quarter of the largest stable step size\n", flush=True)
            if config.is_file():
                text = config.read_text(encoding="utf-8")
                atomic_write(config, re.sub(r"(?m)^( +lr:) auto$", rf"\1 {pl_module.lr!r}", text).encode())
        for logger in run_loggers(trainer):
            logger.log_text("run/what you see here", ABOUT)  # of three groups, TensorBoard would leave one folded up
            if config.is_file():
                logger.log_text("run/config", indent(config.read_text(encoding="utf-8"), " " * 4))  # as code, verbatim

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Find the covariance of the optimum and its diagnostics, once, so that checkpoints hold the covariance."""
        data = data_of(trainer)
        if self._looked or data is None or data.summary.factor is None or pl_module.biased_objective:
            return
        self._looked = True
        known, clusters = data.summary.covariance, list(data.clusters) if self.covariance == "cluster" else []
        if known is not None and (known.kind, list(known.clusters)) != (self.covariance, clusters):
            known = data.summary.covariance = None  # the checkpoint's is another
        kind = self.covariance if known is None else "classical"
        if kind != "classical" or self.diagnostics:
            look_again(data, kind, pl_module.has_bias, self.diagnostics)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write and print the report.

        Raises:
            InputError: the fit is worse than the mean of the target, and ``guard`` is on.
        """
        self.on_train_epoch_end(trainer, pl_module)  # where there was no epoch left
        folder = output_folder(trainer)  # all processes must ask
        failure = None
        if trainer.is_global_zero:
            result = self._collect(trainer, pl_module)
            failure = result.get("failure")
            if folder is not None:
                report.write(result, folder)
            for logger in run_loggers(trainer):
                logger.log_text("coefficients", report.format_markdown(result), trainer.global_step)
            print("\n" + report.format_report(result, folder), flush=True)
        failure = trainer.strategy.broadcast(failure)
        if self.guard and failure and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise InputError(f"{failure} (--guard false lets it pass)")

    def _collect(self, trainer: L.Trainer, model: "LinearModel") -> report.Report:
        data = data_of(trainer)
        assert data is not None
        result: report.Report = {
            "model": type(model).__name__.lower(),
            "steps": trainer.global_step,
            "epochs": trainer.fit_loop.epoch_progress.current.ready,  # begun
            "seconds": round(time.perf_counter() - self._start, 3),
            "world_size": trainer.world_size,
            "num_train": data.num_rows("train"),
            "num_features": data.num_features,
        }
        if model.lr is not None:
            result |= {"batch_size": data.batch_size, "lr": model.lr}
        if data.formula:
            result |= {"formula": data.formula, "target": data.target_name}
        result |= {"missing": data.missing_values} if data.missing_values else {}
        result |= getattr(model, "details", {})
        inference = data.summary.inference(model.has_bias, self.confidence_level)
        distance = None if model.lr is None else joint_distance(data, model)
        if distance is not None:
            result["joint_distance"] = distance
            if distance > 1:
                result |= why_not_there(data, model, distance, result["epochs"])
        if inference is not None and not model.biased_objective:
            result |= {"confidence_level": self.confidence_level, "covariance": "classical"}
            if (covariance := inference.covariance) is not None:
                result["covariance"] = covariance.kind
                result |= {"clusters": covariance.clusters} if covariance.clusters else {}
                result |= doubts(covariance)
        result |= {"coefficients": coefficient_rows(data, model, inference, self.beta), "net": model.describe()}
        newest = find_callback(trainer, EpochScores).scores
        found = {"diagnostics": data.summary.diagnostics, "gradients": model.gradients()}
        found |= {part: newest.get(part) for part in ("train", "val")}
        result |= {name: values for name, values in found.items() if values}
        if inference is not None:
            summary = inference.summary()
            hidden = ("aic", "bic") if data.weighted else ()  # the likelihood depends on all weights
            for name in ("f", "f_p", "aic", "bic") if model.biased_objective else hidden:
                summary.pop(name, None)
            result |= {"optimum": summary, "noise_floor": data.summary.noise_floor(model.has_bias)}
        elif data.summary.factor is not None and data.summary.optimum(model.has_bias) is None:
            result["note"] = "the rows do not determine a unique optimum, so there are no standard errors"
        if (submodel := infer(getattr(model, "submodel", None), self.confidence_level)) is not None:
            result["confidence_level"] = self.confidence_level
            fill([row for row in result["coefficients"] if row["estimate"]], inference_columns(submodel))
        result |= remarks(data, model, result)
        return result

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print the scores of the validation or test rows and add them to the run's report, unless within a fit."""
        if trainer.state.fn == "fit" or not trainer.is_global_zero:
            return
        part = "test" if trainer.testing else "val"
        scores = {part: find_callback(trainer, EpochScores).scores.get(part, {})}
        print(report.format_scores(scores), flush=True)
        if self.folder is not None and (self.folder / "report.json").is_file():
            report.update(self.folder, scores)

    on_test_end = on_validation_end


def doubts(covariance: Covariance) -> report.Report:
    """What to know of standard errors that are not as good as their name."""
    found = []
    if bool(covariance.root.isnan().any()):
        found.append(f"{covariance.kind} has no value where one row alone tells a coefficient; use HC1")
    for name, count in covariance.clusters.items():
        if count < FEW_CLUSTERS:
            found.append(f"{count} clusters by {name!r} are few: below some {FEW_CLUSTERS}, p is too small on average")
    if covariance.mended:
        found.append("the two-way covariance had negative eigenvalues, which were set to 0")
    return {"note": "; ".join(found)} if found else {}


def remarks(data: DataModule, model: "LinearModel", result: report.Report) -> report.Report:
    """What to know of a target without variation or without noise, and of a fit that failed."""
    R, found = data.summary.factor, {}
    if R is None:
        return {}
    total = total_sum_of_squares(R, model.has_bias)
    if total_sum_of_squares(R) == 0:
        found["note"] = f"the target {data.target_name!r} has one value only: there is nothing to explain"
    elif result.get("optimum") and explains_exactly(R, model.has_bias, result["optimum"]["mse"]):
        found["note"] = "the columns explain the target exactly: standard errors, t and F are rounding errors"
    squares = residual_sum_of_squares(R, *model.coefficients())
    if total and not squares <= total and not result.get("joint_distance", 2.0) <= 1:
        than, about = ("the mean of the target", "") if model.has_bias else ("zero", " about zero")
        found["failure"] = f"the fit is worse than {than}: r2{about} is {1 - squares / total:.3g}"
    return found


def output_folder(trainer: L.Trainer) -> Path | None:
    """Where a fit writes to, if it does; all processes must ask."""
    log_dir = trainer.log_dir
    return Path(log_dir) if trainer.loggers and log_dir and not trainer.fast_dev_run else None  # type: ignore[attr-defined]


def coefficient_rows(
    data: DataModule, model: "LinearModel", inference: Inference | None, beta: bool = False
) -> list[dict[str, Any]]:
    """Every coefficient with all that is known of it, the bias last, for raw columns; standardised too for ``beta``."""
    summary, (weight, bias) = data.summary, model.coefficients()
    estimates = weight.tolist() + [bias.item()] * model.has_bias
    columns = {"name": [*model.feature_names, "bias"], "estimate": estimates}
    if beta and summary.factor is not None:
        columns["beta"] = standardized_coefficients(summary.factor, weight).tolist()
    if data.truth is not None:
        columns["true"] = true = [*data.truth[0], data.truth[1]]
        columns["error"] = [found - value for found, value in zip(estimates, true, strict=False)]
    if (optimum := summary.optimum(model.has_bias)) is not None:
        columns["optimum"] = best = _bias_last(optimum.theta, model.has_bias)
        columns["distance"] = [found - value for found, value in zip(estimates, best, strict=True)]
    rows: list[dict[str, Any]] = [{} for _ in estimates]
    fill(rows, columns)
    if inference is not None and not model.biased_objective:  # of the optimum, for which alone they hold
        fill(rows, inference_columns(inference))
    return rows


def inference_columns(inference: Inference) -> dict[str, list[float]]:
    """Standard errors, intervals and tests of the coefficients, the bias last, which has no variance inflation."""
    low, high = inference.confidence_intervals
    vectors = {"standard_error": inference.standard_errors, "ci_low": low, "ci_high": high}
    vectors |= {"t": inference.t, "p": inference.p}
    columns = {name: _bias_last(vector, inference.solution.has_bias) for name, vector in vectors.items()}
    return columns | {"vif": inference.vif.tolist()}


def fill(rows: list[dict[str, Any]], columns: dict[str, list[Any]]) -> None:
    """Add columns to rows; one that has no value for the bias is shorter."""
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=False):
            row[name] = value


def _bias_last(vector: Tensor, has_bias: bool) -> list[float]:
    values: list[float] = vector.tolist()
    return values[1:] + values[:1] if has_bias else values
