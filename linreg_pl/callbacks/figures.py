"""Draws a fit, into the run's folder and into TensorBoard."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from linreg_pl.callbacks.curves import History, coefficient_scalars, find_callback
from linreg_pl.callbacks.report import coefficient_rows, output_folder
from linreg_pl.data.base import DataModule, data_of
from linreg_pl.data.sampling import Sample
from linreg_pl.data.summary import TrainingSummary
from linreg_pl.files import atomic_write
from linreg_pl.functional.least_squares import column_std, num_rows, profile
from linreg_pl.functional.whitening import WhitenedBlock, Whitening
from linreg_pl.runs import drawing, figures
from linreg_pl.runs.logger import run_loggers

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel

MAX_ROWS = 2000
MAX_NUMBERS = 2**22  # in these rows
LARGE = 1e100  # what has diverged so far is not drawn


@dataclass(eq=False)
class Figures(L.Callback):
    """Draws ``figures/*.png`` at the end of a fit, and the same pictures for TensorBoard.

    ``data``: the target over the features; ``fit``: fitted against true values, residuals and their
    quantiles; ``loss``: against the noise floor; ``path``: of one or two weights and the bias over the loss
    surface; ``coefficients``: with their intervals; ``diagnostics``: of the residuals; ``shrinkage`` and
    ``cross_validation``: over the penalties of `ElasticNet`. What a fit has not, is not drawn.
    """

    confidence_level: float = 0.95  # probability that an interval covers the true coefficient
    every_n_epochs: int = 0  # after which it is drawn too; 0 for the end alone
    _drawn: int = field(default=-1, init=False)  # at this step

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Let some of the training rows be kept when they are read."""
        data = data_of(trainer)
        if stage == "fit" and data is not None:
            rows = min(MAX_ROWS, MAX_NUMBERS // (data.num_features + 2))
            data.sample = Sample(min(1.0, rows / data.num_rows("train")), data.seed)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Note where the fit starts from, unless it goes on from a checkpoint."""
        if trainer.global_step == 0:
            self._note(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Note where the epoch ended, and draw, if it is time to."""
        self._note(trainer, pl_module)
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Draw."""
        if self._drawn != trainer.global_step:
            self._draw(trainer, pl_module)

    def _note(self, trainer: L.Trainer, model: Any) -> None:
        find_callback(trainer, History).add(coefficient_scalars(trainer, model), trainer.global_step)

    def _draw(self, trainer: L.Trainer, model: Any) -> None:
        folder, data = output_folder(trainer), data_of(trainer)  # all processes must ask
        if folder is None or data is None:
            return
        if data.sample is not None:  # each process may have read its own share only
            for blocks in data.of_all_processes(data.sample.blocks):
                data.sample.blocks |= blocks
        self._drawn = trainer.global_step
        if not trainer.is_global_zero:
            return
        (folder / "figures").mkdir(exist_ok=True)
        for name, figure in self._figures(data, model, find_callback(trainer, History)):
            png, width, height = drawing.encode(figure)
            atomic_write(folder / "figures" / f"{name}.png", png)
            for logger in run_loggers(trainer):
                logger.log_picture(f"figures/{name}", png, width, height, trainer.global_step)

    def _figures(self, data: DataModule, model: "LinearModel", history: History) -> Iterator[tuple[str, Figure]]:
        target = data.target_name
        summary, bias = data.summary, model.has_bias
        rows = coefficient_rows(data, model, summary.inference(bias, self.confidence_level))
        theta = np.array([row["estimate"] for row in rows])
        if np.abs(theta).max() < LARGE and data.sample is not None and data.sample.blocks:
            columns = data.sample.columns()
            X, y, *weights = (column.numpy() for column in columns)
            y, weight = y[:, 0], weights[0][:, 0] if weights else None
            w, b = theta[: X.shape[1]], float(theta[X.shape[1] :].sum())
            count = data.num_rows("train")
            shown = f"{len(y):,} of {count:,} training rows, drawn at random" if len(y) < count else "all training rows"
            yield "data", figures.draw_data(X, y, w, b, data.feature_names, target, shown)
            yield "fit", figures.draw_fit(X @ w + b, y, weight, target, shown)
            scale = X.std(axis=0) if summary.factor is None else column_std(summary.factor).numpy()
            if summary.diagnostics is not None:
                yield "diagnostics", _diagnostics(summary, bias, columns, shown)
            yield "coefficients", figures.draw_coefficients(rows, scale, target, self.confidence_level)
        if (path := getattr(model, "path", None)) is not None and float(path.penalties[0]) > 0:
            yield from _penalised(path, data)
        if model.lr is not None and (curves := _losses(model, history)):
            steps_per_epoch = -(-data.num_rows("train") // data.batch_size)
            yield "loss", figures.draw_loss(curves, summary.noise_floor(bias), target, steps_per_epoch)
            yield from _path(data, model, history, rows)


def _diagnostics(summary: TrainingSummary, bias: bool, columns: list[Tensor], shown: str) -> Figure:
    """Draw a sample's residuals at the optimum, and the rows of most influence."""
    inference, shifted, diagnostics = summary.inference(bias), summary.shifted, summary.diagnostics
    assert inference is not None
    assert shifted is not None
    assert diagnostics is not None
    optimum, dof = inference.solution, inference.dof
    block = WhitenedBlock(Whitening(optimum, shifted), *columns)
    for _ in block:
        pass
    assert block.leverage is not None
    standardized = block.residual / (inference.residual_std * (1 - block.leverage).clamp(min=0).sqrt())
    fitted = columns[0] @ optimum.weight + optimum.bias
    rows = [
        (row["row"], row["leverage"], (t := row["studentized"]) * (dof / (dof - 1 + t**2)) ** 0.5)
        for row in diagnostics["influential"]
    ]
    return figures.draw_diagnostics(
        fitted.numpy(), standardized.numpy(), block.leverage.numpy(), len(optimum.theta), rows, shown
    )


def _penalised(path: Any, data: DataModule) -> Iterator[tuple[str, Figure]]:
    """Draw the solutions of `ElasticNet` over the penalty."""
    chosen, weights = float(path.penalties[path.chosen]), path.weights.numpy()
    order = path.weights[-1].abs().argsort(descending=True).tolist()
    penalties = path.penalties.clamp(min=float(path.penalties[0]) * 1e-6).numpy()
    caption = f"Weights are for {'standardised columns' if data.standardize else 'the columns'}."
    yield "shrinkage", figures.draw_shrinkage(penalties, weights, chosen, data.feature_names, order, caption)
    if path.validated is not None:
        errors = path.validated.mse.numpy(), path.validated.se.numpy()
        yield "cross_validation", figures.draw_cross_validation(penalties, *errors, chosen, data.target_name)


def _path(
    data: DataModule, model: "LinearModel", history: History, rows: list[dict[str, Any]]
) -> Iterator[tuple[str, Figure]]:
    """Draw the coefficients over the steps, unless there is one, or too many to be kept, or no surface."""
    factor, bias, names = data.summary.factor, model.has_bias, [row["name"] for row in rows]
    kept = [history[f"weight/{name}"] for name in data.feature_names] + [history["bias"]] * bias
    curves = ([value for _, value in curve] for curve in kept)
    path = np.array([*zip(*curves, strict=False), [row["estimate"] for row in rows]])
    drawable = len(names) > 1 and all(kept) and np.abs(path).max() < LARGE
    if factor is not None and data.summary.optimum(bias) is not None and drawable:
        known: list[str] = [key for key in ("optimum", "true") if key in rows[0]]
        marks = {key: [row[key] for row in rows] for key in known}
        place = [*range(1, len(names)), 0] if bias else range(1, len(names) + 1)  # in the factor
        pairs = combinations(range(len(names)), 2)
        surfaces = {(i, j): profile(factor, [place[i], place[j]], bias).numpy() for i, j in pairs}
        yield "path", figures.draw_path(path, names, surfaces, marks, num_rows(factor), data.target_name)


def _losses(model: "LinearModel", history: History) -> dict[str, figures.Curve]:
    """Mean squared errors above zero; of mini-batches where that is what their loss is."""
    per = None if model.biased_objective else model.squared_error_scale
    logarithms = history["log10/train_mse"]
    curves = {
        "mini-batch": [(step, loss / per) for step, loss in history["train/batch_loss"]] if per else [],
        "training rows": [(step, 10**value) for step, value in logarithms] or history["train/mse"],
        "validation rows": history["val/mse"],
    }
    return {name: points for name, curve in curves.items() if (points := [point for point in curve if point[1] > 0])}
