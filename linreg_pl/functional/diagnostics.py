"""What the residuals of a least-squares fit say about its assumptions, from one more pass over the rows.

Under weights w, residuals and columns are those of the rows times ``√w``. Definitions are those of statsmodels.
Sources: Durbin and Watson 1950; Jarque and Bera 1980; Breusch and Pagan 1979, studentised by Koenker 1981; Cook 1977.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linreg_pl.functional.covariance import NO_RESIDUAL
from linreg_pl.functional.factors import merge_shifted, shifted_factor, unshifted
from linreg_pl.functional.whitening import WhitenedBlock, Whitening

NUM_INFLUENTIAL = 20
BINS = 2**14  # for residuals that are too many to be kept
GROUP = 128  # rows
REACH = 2.5  # root mean squares of residuals within which the bins lie, and by Chebyshev's inequality the quartiles


class Diagnostics:
    """Sums over blocks of rows.

    Args:
        whitening: by the factor of all rows, for an optimum whose residuals are not all zero.
        keep: whether all residuals are kept, which makes their quartiles exact.
    """

    def __init__(self, whitening: Whitening, keep: bool) -> None:
        self.solution = whitening.solution
        self.mean_square = float(self.solution.factor[-1, -1].square()) / self.solution.num_rows  # of residuals
        self.powers = np.zeros(4)  # sums of powers of residuals, whose root mean square is 1
        self.differences = 0.0  # sum of squared differences of neighbours in a block
        self.ends: list[tuple[int, float, float]] = []  # of each block: its first row, first and last residual
        self.slopes = torch.zeros(len(self.solution.theta), dtype=torch.float64)  # of squared residuals on q
        self.factors: list[Tensor] = []  # instead, of columns and squared residuals: with weights, or without a bias
        self.extremes = math.inf, -math.inf
        self.counts = np.zeros(BINS, np.int64)
        self.kept: list[NDArray[np.float64]] | None = [] if keep else None
        self.influential = torch.empty(0, 4, dtype=torch.float64)  # number of the row, distance, leverage, residual

    def add(self, block: WhitenedBlock, rows: slice, q: Tensor) -> None:
        """Add what needs the coordinates of some rows."""
        if self.solution.has_bias and block.weight is None:
            self.slopes.addmv_(q, block.residual[rows].square())

    def end(self, block: WhitenedBlock, numbers: Tensor) -> None:
        """Add what needs a whole block, all of whose rows were added, and whose numbers in the table are increasing."""
        residual, leverage = block.residual, block.leverage
        assert leverage is not None
        if not len(residual):
            return
        scaled = residual / math.sqrt(self.mean_square)
        squares = scaled.square()
        self.powers += [x.item() for x in (scaled.sum(), squares.sum(), squares @ scaled, squares @ squares)]
        differences = scaled.diff()
        self.differences += float(differences @ differences)
        self.ends.append((int(numbers[0]), float(scaled[0]), float(scaled[-1])))
        low, high = torch.aminmax(residual)
        self.extremes = min(self.extremes[0], float(low)), max(self.extremes[1], float(high))
        if self.kept is not None:
            self.kept.append(residual.numpy())
        else:
            place = (scaled * (BINS / (2 * REACH))).add_(BINS / 2)
            self.counts += np.bincount(place.clamp_(0, BINS - 1).to(torch.int32).numpy(), minlength=BINS)
        if not self.solution.has_bias or block.weight is not None:
            self.factors = [merge_shifted(torch.stack([*self.factors, shifted_factor(block.X, squares[:, None])]))]
        self._find_influential(squares, leverage, scaled, numbers)

    def _find_influential(self, squares: Tensor, leverage: Tensor, scaled: Tensor, numbers: Tensor) -> None:
        n, p = self.solution.num_rows, len(self.solution.theta)
        left = 1 - leverage
        cook = (squares * leverage).div_(left).div_(left)
        cook.masked_fill_(left <= NO_RESIDUAL, math.inf)
        found = _largest(cook, NUM_INFLUENTIAL)
        cook = cook[found] * ((n - p) / p / n)
        variance = (n * left[found] - squares[found]).clamp(min=0) / (n - p - 1) if n > p + 1 else 0.0
        these = torch.stack([numbers[found].double(), cook, leverage[found], scaled[found] / variance**0.5], dim=1)
        self._keep_influential(these)

    def _keep_influential(self, others: Tensor) -> None:
        several = torch.cat([self.influential, others])
        self.influential = several[several[:, 1].argsort(descending=True, stable=True)[:NUM_INFLUENTIAL]]

    def merge(self, other: "Diagnostics") -> None:
        """Add the sums over other rows."""
        self.powers += other.powers
        self.differences += other.differences
        self.ends += other.ends
        self.slopes += other.slopes
        self.factors = [merge_shifted(torch.stack(both))] if (both := self.factors + other.factors) else []
        self.extremes = min(self.extremes[0], other.extremes[0]), max(self.extremes[1], other.extremes[1])
        self.counts += other.counts
        if self.kept is not None and other.kept is not None:
            self.kept += other.kept
        self._keep_influential(other.influential)

    def result(self) -> dict[str, Any]:
        """Return the numbers over all rows, as ``report.json`` has them."""
        ends = sorted(self.ends)
        between = sum((first - last) ** 2 for (_, _, last), (_, first, _) in pairwise(ends))
        names = ("row", "cook", "leverage", "studentized")
        rows = [dict(zip(names, line, strict=True)) for line in self.influential.tolist()]
        return {
            "durbin_watson": (self.differences + between) / self.powers[1],
            "jarque_bera": self._jarque_bera(),
            "breusch_pagan": self._breusch_pagan(),
            "residuals": self._quantiles(),
            "influential": [row | {"row": int(row["row"])} for row in rows],
        }

    def _jarque_bera(self) -> dict[str, float]:
        n = self.solution.num_rows
        mean, *raw = self.powers / n
        variance = raw[0] - mean**2
        skew = (raw[1] - 3 * mean * raw[0] + 2 * mean**3) / variance**1.5
        kurtosis = (raw[2] - 4 * mean * raw[1] + 6 * mean**2 * raw[0] - 3 * mean**4) / variance**2
        statistic = n / 6 * (skew**2 + (kurtosis - 3) ** 2 / 4)
        return {"statistic": statistic, "p": _chi2_p(2, statistic), "skew": skew, "kurtosis": kurtosis}

    def _breusch_pagan(self) -> dict[str, float]:
        """``n R²`` of the regression of squared residuals on the columns and a constant."""
        n, columns = self.solution.num_rows, len(self.solution.weight)
        if self.factors:
            R = unshifted(self.factors[0])
            explained, total = (float(part.square().sum()) for part in (R[1:-1, -1], R[1:, -1]))
        else:
            explained = float((self.slopes[1:] / self.mean_square).square().sum())
            total = self.powers[3] - n
        statistic = n * explained / total if total > 0 else math.nan
        return {"statistic": statistic, "p": _chi2_p(columns, statistic)}

    def _quantiles(self) -> dict[str, float]:
        shares = np.array([0.25, 0.5, 0.75])
        if self.kept is not None:
            middle, error = np.quantile(np.concatenate(self.kept), shares), {}
        else:
            width = 2 * REACH * math.sqrt(self.mean_square) / BINS
            place = shares * (self.counts.sum() - 1)
            below = self.counts.cumsum()
            low, high = (np.searchsorted(below, end(place), side="right") for end in (np.floor, np.ceil))
            middle, error = (low + (high - low) * (place % 1) + 0.5 - BINS / 2) * width, {"error": width / 2}
        values = (self.extremes[0], *middle.tolist(), self.extremes[1])
        return dict(zip(("min", "q1", "median", "q3", "max"), values, strict=True)) | error


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the indices of the largest values, the largest first; they lie where groups have the largest maxima."""
    groups = values[: len(values) // GROUP * GROUP].view(-1, GROUP)
    best = groups.amax(dim=1).topk(min(count, len(groups))).indices
    places = [(best[:, None] * GROUP + torch.arange(GROUP)).flatten(), torch.arange(groups.numel(), len(values))]
    candidates = torch.cat(places)
    return candidates[values[candidates].topk(min(count, len(candidates))).indices]


def _chi2_p(dof: int, statistic: float) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(dof, statistic))
