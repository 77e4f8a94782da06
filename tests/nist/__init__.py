"""NIST's StRD data sets for linear least squares, with their certified values to 15 digits.

One JSON file per set. ``degree`` says that the file holds ``x`` alone and the design is x, x², …, x^degree.
"""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

NAMES = (
    "Norris",
    "Pontius",
    "NoInt1",
    "NoInt2",
    "Filip",
    "Longley",
    "Wampler1",
    "Wampler2",
    "Wampler3",
    "Wampler4",
    "Wampler5",
)


@dataclass(frozen=True)
class NistSet:
    """A data set and the certified values of its least-squares fit.

    Attributes:
        name: Its name at NIST.
        columns: ``y`` and the columns of the design, ``x1`` to ``xp``, without that of ones.
        intercept: Whether the model has one; then it comes first in the two lists below.
        estimates: The coefficients.
        standard_deviations: Their standard deviations.
        residual_std: The residual standard deviation, √(RSS / (n − number of estimates)).
        r2: R², about the mean of y with an intercept, about zero without.
    """

    name: str
    columns: dict[str, npt.NDArray[np.float64]]
    intercept: bool
    estimates: npt.NDArray[np.float64]
    standard_deviations: npt.NDArray[np.float64]
    residual_std: float
    r2: float

    @property
    def features(self) -> tuple[str, ...]:
        """The columns of the design, in the order of the estimates."""
        return tuple(name for name in self.columns if name != "y")

    @property
    def X(self) -> npt.NDArray[np.float64]:  # noqa: N802
        """The columns of the design as one matrix, without that of ones."""
        return np.column_stack([self.columns[name] for name in self.features])


def load(name: str) -> NistSet:
    """One of the sets in ``NAMES``."""
    # decimals stay exact until the powers are taken, so that every power is the nearest float64
    raw = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"), parse_float=Fraction)
    columns = raw["columns"]
    if raw["degree"] is not None:
        columns = {"y": columns["y"]} | {f"x{k}": [x**k for x in columns["x"]] for k in range(1, raw["degree"] + 1)}
    return NistSet(
        name=raw["name"],
        columns={key: np.array([float(v) for v in values]) for key, values in columns.items()},
        intercept=raw["intercept"],
        estimates=np.array([float(v) for v in raw["estimates"]]),
        standard_deviations=np.array([float(v) for v in raw["standard_deviations"]]),
        residual_std=float(raw["residual_std"]),
        r2=float(raw["r2"]),
    )
