"""``train.py wald``: a joint test of linear constraints on the coefficients of a finished run, without its table."""

import math
from pathlib import Path

from linreg_pl.cli.arguments import CommandParser
from linreg_pl.errors import InputError, printable
from linreg_pl.functional.constraints import parse_constraints
from linreg_pl.functional.covariance import Covariance
from linreg_pl.functional.inference import Inference, infer
from linreg_pl.functional.least_squares import unique_solution
from linreg_pl.runs.checkpoints import load_last


def command(arguments: list[str]) -> None:
    """Run ``python train.py wald`` with these arguments."""
    parser = CommandParser("wald", "Test whether the coefficients of a finished run meet linear constraints, jointly.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run, runs/NAME/version_N")
    parser.add_argument("constraints", metavar="CONSTRAINTS", help="e.g. 'rooms = 2 * age, {city=Rome} = 0'")
    given = parser.parse_args(arguments)
    inference, names = _read(given.run)
    test = inference.wald(*parse_constraints(given.constraints, names))
    kind = "classical" if inference.covariance is None else inference.covariance.kind
    print(f"{printable(given.constraints)}, for the least-squares optimum of the training rows")
    if math.isnan(test.f):
        raise InputError(f"the test has no value by {kind} standard errors")
    print(f"F {test.f:.6g} on {test.num_constraints} and {test.dof} degrees of freedom")
    print(f"p {test.p:.4g}, by {kind} standard errors")


def _read(run: Path) -> tuple[Inference, list[str]]:
    """Read what the last checkpoint of a run tells of the optimum, and the names of its coefficients."""
    path, checkpoint = load_last(run)
    if checkpoint.get("factor") is None:
        raise InputError(f"{run}: its fit did not find the least-squares optimum; fit without --optimum false")
    try:
        arguments = checkpoint["hyper_parameters"]
        if checkpoint.get("biased_objective", bool(arguments.get("ridge") or arguments.get("weight_decay"))):
            raise InputError(f"{run}: with a penalty, or another loss than the squared error, there are no tests")
        has_bias, names = arguments.get("bias", True), checkpoint["feature_names"]
        saved = checkpoint.get("covariance")
        covariance = None if saved is None else Covariance(**saved)
        inference = infer(unique_solution(checkpoint["factor"], has_bias), covariance=covariance)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a checkpoint of this program") from error
    if inference is None:
        raise InputError(f"{run}: the rows do not determine a unique optimum, or there are no more than coefficients")
    return inference, ["bias"] * has_bias + list(names)
