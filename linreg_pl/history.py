"""How a fit went: the curves behind its pictures, in little memory however long it lasts."""

import math
from collections.abc import Mapping

LOSSES = ("train/batch_loss", "log10/train_mse", "train/mse", "val/mse")
COEFFICIENTS = ("weight/", "bias")
SPACING = 1.02  # between the steps of two points: on a picture a fiftieth of the way, at most


class History:
    """Points ``(step, value)`` of the loss curves, denser in the beginning, where descent is fast.

    After 10⁹ steps a curve has not yet a thousand points. Checkpoints carry them, so that a
    resumed fit goes on with them.

    Args:
        coefficients: whether to keep the curves of the coefficients too.

    Attributes:
        curves: points by the names of the curves.

    Example:
        >>> history = History(coefficients=False)
        >>> for step in range(1000):
        ...     history.add({"val/mse": 1 / (1 + step), "bias": 4.2}, step)
        >>> history["val/mse"][:3], len(history["val/mse"]), history["bias"]
        ([(0, 1.0), (1, 0.5), (2, 0.3333333333333333)], 182, [])
    """

    def __init__(self, coefficients: bool) -> None:
        self.kept = COEFFICIENTS if coefficients else ()
        self.curves: dict[str, list[tuple[int, float]]] = {}

    def __getitem__(self, name: str) -> list[tuple[int, float]]:
        """The points of a curve; none where there is no such curve."""
        return self.curves.get(name, [])

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve, but neither one that is not finite, nor one too close to that before."""
        for name, value in values.items():
            if (name in LOSSES or name.startswith(self.kept)) and math.isfinite(value):
                curve = self.curves.setdefault(name, [])
                if not curve or step >= max(curve[-1][0] + 1, curve[-1][0] * SPACING):
                    curve.append((step, float(value)))
