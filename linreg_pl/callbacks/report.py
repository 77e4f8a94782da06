"""Collects a run's report and leaves it in the run's folder."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from linreg_pl import report
from linreg_pl.data.base import DataModule, data_of
from linreg_pl.functional.inference import Inference, infer
from linreg_pl.models.base import LinearModel, SGDModel


class RunReport(L.Callback):
    """Writes ``report.json`` and ``coefficients.csv`` and prints them.

    Args:
        folder: the run's folder where the Trainer has none: that of the checkpoint.
        confidence_level: probability that an interval covers the true coefficient.
    """

    def __init__(self, folder: Path | None = None, confidence_level: float = 0.95) -> None:
        self.folder = folder
        self.confidence_level = confidence_level
        self._start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the coefficients in the columns' own units into the checkpoint."""
        assert isinstance(pl_module, LinearModel)
        checkpoint["coefficients"] = {row["name"]: row["estimate"] for row in _estimates(data_of(trainer), pl_module)}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print the report."""
        log_dir = trainer.log_dir  # all processes must ask
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, LinearModel)
        result = self._collect(trainer, pl_module)
        folder = Path(log_dir) if trainer.loggers and log_dir and not trainer.fast_dev_run else None  # type: ignore[attr-defined]
        if folder is not None:
            report.write(result, folder)
        print("\n" + report.format_report(result, folder), flush=True)

    def _collect(self, trainer: L.Trainer, model: LinearModel) -> report.Report:
        data = data_of(trainer)
        result: report.Report = {
            "model": type(model).__name__.lower(),
            "steps": trainer.global_step,
            "epochs": trainer.fit_loop.epoch_progress.current.completed,
            "seconds": round(time.perf_counter() - self._start, 3),
            "world_size": trainer.world_size,
            "num_train": data.num_rows("train"),
            "num_features": data.num_features,
        }
        if isinstance(model, SGDModel):
            result |= {"batch_size": data.batch_size, "lr": model.lr}
        if data.missing_values:
            result["missing"] = data.missing_values
        inference = infer(model.optimum, self.confidence_level)
        rows = _estimates(data, model)
        _add_truth(rows, data)
        _add_optimum(rows, model)
        if inference is not None and not model.penalised:
            result["confidence_level"] = self.confidence_level
            _add_inference(rows, inference, model)
        result |= {"coefficients": rows, "net": model.describe()}
        if isinstance(model, SGDModel) and (gradients := model.gradients()):
            result["gradients"] = gradients
        result |= {part: scores for part in ("train", "val") if (scores := model.recorded_scores(part))}
        if inference is not None:
            result |= {"optimum": inference.summary(), "noise_floor": model.noise_floor}
        elif model.factor is not None and model.optimum is None:
            result["note"] = "the rows do not determine a unique optimum, so there are no standard errors"
        return result

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the scores of the test rows and add them to the run's report."""
        self._add("test", trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the scores of the validation rows and add them to the run's report, unless within a fit."""
        if trainer.state.fn != "fit":
            self._add("val", trainer, pl_module)

    def _add(self, part: str, trainer: L.Trainer, model: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(model, LinearModel)
        scores = {part: model.recorded_scores(part)}
        print(report.format_scores(scores), flush=True)
        if self.folder is not None and (self.folder / "report.json").is_file():
            report.write(report.read(self.folder) | scores, self.folder)


def _estimates(data: DataModule, model: LinearModel) -> list[dict[str, Any]]:
    """Name and estimate of every coefficient, the bias last, in the columns' own units."""
    weight, bias = data.to_own_units(*model.coefficients())
    names, estimates = list(data.feature_names), weight.tolist()
    if model.has_bias:
        names, estimates = [*names, "bias"], [*estimates, bias.item()]
    return [{"name": name, "estimate": value} for name, value in zip(names, estimates, strict=True)]


def _add_truth(rows: list[dict[str, Any]], data: DataModule) -> None:
    if data.truth is not None:
        weight, bias = data.truth
        for row, true in zip(rows, [*weight, bias], strict=False):
            row |= {"true": true, "error": row["estimate"] - true}


def _add_optimum(rows: list[dict[str, Any]], model: LinearModel) -> None:
    if model.optimum is not None:
        for row, value in zip(rows, _bias_last(model.optimum.theta, model), strict=True):
            row |= {"optimum": value, "distance": row["estimate"] - value}


def _add_inference(rows: list[dict[str, Any]], inference: Inference, model: LinearModel) -> None:
    """Add standard error, interval, t and p. They are those of the optimum, for which alone they hold."""
    low, high = inference.confidence_intervals
    vectors = {"standard_error": inference.standard_errors, "ci_low": low, "ci_high": high}
    vectors |= {"t": inference.t, "p": inference.p}
    for name, vector in vectors.items():
        for row, value in zip(rows, _bias_last(vector, model), strict=True):
            row[name] = value


def _bias_last(vector: Tensor, model: LinearModel) -> list[float]:
    values: list[float] = vector.tolist()
    return values[1:] + values[:1] if model.has_bias else values
