"""The least-squares optimum of the training rows, and whether SGD has arrived there, as far as the data tell."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch

from linreg_pl.callbacks.stability import mean_curvature, rows_of_a_step
from linreg_pl.data.base import DataModule, data_of
from linreg_pl.errors import require_positive
from linreg_pl.functional.least_squares import weight_columns

if TYPE_CHECKING:
    from linreg_pl.models import LinearModel

FAR = 0.01  # of r2
NEAR = 0.5  # joint distance that SGD should come to
ALIKE = 10.0  # condition number of the standardised columns from which two of them are named


class Optimum(L.Callback):
    """Finds the optimum, if the data are of this project."""

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Pass over the training rows before the first step, unless the model makes this very pass itself."""
        data = data_of(trainer)
        if data is not None and pl_module.served != "factors":
            data.find_factor()


class StopWithin(L.Callback):
    """Ends a fit after the epoch in which the coefficients come within a `joint_distance` of the optimum."""

    def __init__(self, distance: float) -> None:
        require_positive("--stop_within", distance)
        self.distance = distance

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop if they have."""
        data = data_of(trainer)
        found = None if data is None else joint_distance(data, pl_module)
        if found is not None and found <= self.distance:
            trainer.should_stop = True


def joint_distance(data: DataModule, model: "LinearModel") -> float | None:
    """How far all coefficients together are from the optimum, against what the data leave open.

    ``|R (θ - θ*)|² / (p s²)``: the F statistic of the hypothesis that θ is the truth. Up to 1 the data hardly tell
    θ from the optimum. None if the optimum is not known, has no standard errors, or is not what the model minimises.
    """
    inference = data.summary.inference(model.has_bias)
    if inference is None or model.biased_objective or inference.residual_variance == 0:
        return None
    return inference.joint_distance(*model.coefficients())


def shortfall(data: DataModule, model: "LinearModel") -> str:
    """Say that SGD is far from the optimum: by r2 on the training rows too; empty if it is not."""
    inference, distance = data.summary.inference(model.has_bias), joint_distance(data, model)
    if inference is None or distance is None or distance <= 1:
        return ""
    squares = distance * len(inference.solution.theta) * inference.residual_variance  # more than at the optimum
    best, lost = inference.r2, squares / inference.total_sum_of_squares
    if lost < FAR:
        return ""
    mend = "take more epochs, or scale the columns"
    return f"SGD did not arrive: r2 is {best - lost:.4g}, at the optimum {best:.4g}; {mend}"


def why_not_there(data: DataModule, model: "LinearModel", distance: float, epochs: int) -> dict[str, Any]:
    """Say why plain SGD has not arrived after some epochs, and about how many more it would take.

    The error of SGD shrinks by ``1 - lr λ`` a step, where λ is the smallest curvature; then noise of variance
    ``lr s² / 2B`` in every direction remains, unless steps are averaged. ``distance`` is that of `joint_distance`.

    Returns:
        ``reason``, a sentence, and ``epochs_to_go``, where more epochs would do.
    """
    if not model.is_plain_sgd or model.lr is None or not math.isfinite(distance):
        return {}
    curvature, _ = mean_curvature(data, model)
    values = torch.linalg.eigvalsh(curvature)
    rows, size, lr = data.num_rows("train"), rows_of_a_step(data), model.lr
    noise = lr * float(values.sum()) * (rows - size) / (2 * size * len(values))  # of the joint distance, in the end
    averages = getattr(model, "average", None) is not None
    if not averages and noise > distance / 2:
        return {
            "reason": f"a step of this size leaves it at about {noise:.2g}, however long it goes on: set"
            " --model.average true, or a smaller --model.lr"
        }
    shrinks = -math.log1p(-min(max(lr * float(values[0]), 1e-300), 0.999))
    steps = math.log(distance / NEAR) / (2 * shrinks)
    to_go = steps * size / rows
    if averages:  # until the first steps are forgotten, as the fourth power of the steps
        to_go = max(to_go, epochs * ((distance / NEAR) ** 0.125 - 1))
    to_go = math.ceil(min(to_go, 1e15))
    more = f"about {to_go:,} more epochs, or none with --model Exact"
    columns = weight_columns(data.find_factor(), model.has_bias)
    _, singular, V = torch.linalg.svd(columns / columns.norm(dim=0))
    if float(values[-1] / values[0]) > 10 * max(ALIKE, float(singular[0] / singular[-1])) ** 2:
        reason = f"the columns differ in scale: set --data.standardize true; as they are it takes {more}"
    elif len(singular) > 1 and singular[0] > ALIKE * singular[-1]:
        pair = V[-1].abs().topk(2).indices.tolist()
        names = " and ".join(repr(data.feature_names[index]) for index in pair)
        condition = f"condition number {float(singular[0] / singular[-1]):.3g} of the standardised columns"
        reason = f"columns are so alike ({condition}, mostly {names}) that it takes {more}"
    else:
        reason = f"too few steps: it takes {more}"
    return {"reason": reason, "epochs_to_go": to_go}
