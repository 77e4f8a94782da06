"""Flags of the command line beside those of the Trainer, the model and the data."""

from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from linreg_pl.functional.covariance import CovarianceKind


def add_flags(parser: LightningArgumentParser) -> None:
    """Add them to the parser of a command."""
    parser.add_argument(
        "--optimum", type=bool, default=True, help="find the least-squares optimum of the training rows too"
    )
    parser.add_argument(
        "--guard",
        type=bool,
        default=True,
        help="refuse an lr that must diverge, stop at NaN, and fail if the fit is worse than the mean",
    )
    parser.add_argument(
        "--stop_within",
        type=float | None,
        default=None,
        help="end after the epoch in which the joint distance to the optimum is at most this, e.g. 0.5",
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="minutes that processes wait for one that does not answer"
    )
    parser.add_argument(
        "--covariance",
        type=CovarianceKind,
        default="classical",
        help="of the standard errors: classical for errors of equal variance, HC0 to HC3 for any, or by cluster",
    )
    parser.add_argument(
        "--diagnostics",
        type=bool,
        default=False,
        help="one more pass over the training rows: what the residuals say about the assumptions",
    )
    parser.add_argument(
        "--beta",
        type=bool,
        default=False,
        help="also coefficients for columns and target of standard deviation 1",
    )
    parser.add_argument("--confidence_level", type=float, default=0.95, help="of the confidence intervals")
    parser.add_argument(
        "--figures",
        type=bool | PositiveInt,
        default=True,
        help="draw the fit at its end; a number: also after every so many epochs",
    )
    parser.add_argument(
        "--predictions",
        type=str | None,
        default=None,
        help="what predict writes: .parquet or .csv, perhaps s3://…",
    )
    parser.add_argument("--sweep", type=dict | None, default=None, help="for `train.py sweep` alone")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the newest run of this name; begin if there is none"
    )
