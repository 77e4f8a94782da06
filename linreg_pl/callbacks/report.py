"""Collects a run's report and leaves it in the run's folder."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from linreg_pl import report
from linreg_pl.data.base import DataModule
from linreg_pl.models.base import LinearModel


class RunReport(L.Callback):
    """Writes ``report.json`` and ``coefficients.csv`` and prints them.

    Args:
        folder: the run's folder where the Trainer has none: that of the checkpoint.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the coefficients in the table's own units into the checkpoint."""
        checkpoint["coefficients"] = {row["name"]: row["estimate"] for row in _coefficients(trainer, pl_module)}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print the report."""
        log_dir = trainer.log_dir  # all processes must ask
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, LinearModel)
        data = _data(trainer)
        result: report.Report = {
            "model": type(pl_module).__name__.lower(),
            "steps": trainer.global_step,
            "epochs": trainer.fit_loop.epoch_progress.current.completed,
            "seconds": round(time.perf_counter() - self._start, 3),
            "world_size": trainer.world_size,
            "num_train": data.num_rows("train"),
            "num_features": data.num_features,
            "batch_size": data.batch_size,
            "lr": pl_module.lr,
            "coefficients": _coefficients(trainer, pl_module),
            "net": pl_module.describe(),
        }
        if gradients := pl_module.gradients():
            result["gradients"] = gradients
        for part in ("train", "val"):
            scores = pl_module.recorded_scores(part)
            if scores:
                result[part] = scores
        folder = Path(log_dir) if trainer.loggers and log_dir and not trainer.fast_dev_run else None  # type: ignore[attr-defined]
        if folder is not None:
            report.write(result, folder)
        print("\n" + report.format_report(result, folder), flush=True)

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


def _data(trainer: L.Trainer) -> DataModule:
    data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


def _coefficients(trainer: L.Trainer, model: L.LightningModule) -> list[dict[str, Any]]:
    assert isinstance(model, LinearModel)
    data = _data(trainer)
    weight, bias = data.to_own_units(*model.coefficients())
    names, estimates = list(data.feature_names), weight.tolist()
    if model.has_bias:
        names, estimates = [*names, "bias"], [*estimates, bias.item()]
    rows: list[dict[str, Any]] = [
        {"name": name, "estimate": value} for name, value in zip(names, estimates, strict=True)
    ]
    if data.truth is not None:
        for row, true in zip(rows, [*data.truth[0], data.truth[1]], strict=False):
            row |= {"true": true, "error": row["estimate"] - true}
    return rows
