"""Pure functions on tensors: the mathematics, without state."""

from linreg_pl.functional.factors import merge_factors, triangular_factor, triangularize
from linreg_pl.functional.inference import Inference, infer, noise_floor
from linreg_pl.functional.least_squares import (
    RankDeficientError,
    Solution,
    column_std,
    condition_number,
    matrix_rank,
    num_rows,
    profile,
    residual_sum_of_squares,
    solve,
    total_sum_of_squares,
    unique_solution,
)
from linreg_pl.functional.regression import l2_penalty, linreg, sgd, squared_loss
from linreg_pl.functional.scores import merge_summaries, scores, summarize_predictions
from linreg_pl.functional.stability import largest_stable_lr
from linreg_pl.functional.standardize import Scaling, column_scaling

__all__ = [
    "Inference",
    "RankDeficientError",
    "Scaling",
    "Solution",
    "column_scaling",
    "column_std",
    "condition_number",
    "infer",
    "l2_penalty",
    "largest_stable_lr",
    "linreg",
    "matrix_rank",
    "merge_factors",
    "merge_summaries",
    "noise_floor",
    "num_rows",
    "profile",
    "residual_sum_of_squares",
    "scores",
    "sgd",
    "solve",
    "squared_loss",
    "summarize_predictions",
    "total_sum_of_squares",
    "triangular_factor",
    "triangularize",
    "unique_solution",
]
