"""Flags of the command line beside those of the Trainer, the model and the data."""

from jsonargparse.typing import PositiveInt

from linreg_pl.functional.covariance import CovarianceKind


def run_flags(
    optimum: bool = True,
    guard: bool = True,
    stop_within: float | None = None,
    timeout: float = 10.0,
    covariance: CovarianceKind = "classical",
    diagnostics: bool = False,
    beta: bool = False,
    confidence_level: float = 0.95,
    figures: bool | PositiveInt = True,
    predictions: str | None = None,
    sweep: dict | None = None,  # type: ignore[type-arg]
) -> None:
    """What the parser makes flags of.

    Args:
        optimum: find the least-squares optimum of the training rows too
        guard: refuse an lr that must diverge, stop at NaN, and fail if the fit is worse than the mean
        stop_within: end after the epoch in which the joint distance to the optimum is at most this, e.g. 0.5
        timeout: minutes that processes wait for one that does not answer
        covariance: of the standard errors: classical for errors of equal variance, HC0 to HC3 for any, or by cluster
        diagnostics: one more pass over the training rows: what the residuals say about the assumptions
        beta: also coefficients for columns and target of standard deviation 1
        confidence_level: of the confidence intervals
        figures: draw the fit at its end; a number: also after every so many epochs
        predictions: what predict writes: .parquet or .csv, perhaps s3://…
        sweep: for `train.py sweep` alone
    """
