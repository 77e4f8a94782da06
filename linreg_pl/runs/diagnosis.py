"""What the diagnostics of a run mean, in sentences. Imports neither torch nor numpy."""

import math
from typing import Any

UNLIKELY = 0.05  # p-value below which an assumption is said not to hold
INFLUENTIAL = 0.5  # Cook's distance from which a row moves the fit (Cook and Weisberg 1982)
ALIKE, OPPOSED = 1.5, 2.5  # Durbin-Watson statistics between which neighbours are taken to be unrelated
MANY = 200  # rows with which t and F hold whatever the distribution of the errors is


def diagnosis(report: dict[str, Any]) -> str:
    """Say in a line each what a report's diagnostics mean and what to do; nothing if there are none."""
    if "diagnostics" not in report:
        return ""
    found = report["diagnostics"]
    return "\n".join([_residuals(found), _variance(found, report), _order(found), _shape(found, report), _rows(found)])


def _has(*values: float | None) -> bool:
    """Whether numbers have values: a report that was read has None where they have not."""
    return all(value is not None and math.isfinite(value) for value in values)


def _residuals(found: dict[str, Any]) -> str:
    five = found["residuals"]
    quartiles = ", ".join(f"{five[name]:.4g}" for name in ("q1", "median", "q3"))
    within = f" (to within {five['error']:.2g})" if "error" in five else ""
    return f"residuals from {five['min']:.4g} to {five['max']:.4g}, quartiles {quartiles}{within}"


def _variance(found: dict[str, Any], report: dict[str, Any]) -> str:
    statistic, p = found["breusch_pagan"]["statistic"], found["breusch_pagan"]["p"]
    if not _has(statistic, p):
        return "Breusch-Pagan has no value"
    text, kind = f"Breusch-Pagan {statistic:.4g} (p {p:.2g}): ", report.get("covariance", "classical")
    if p >= UNLIKELY:
        return text + "no sign that the variance of the errors depends on the columns"
    cure = "believe standard errors by --covariance HC3" if kind == "classical" else f"which {kind} allows for"
    return text + f"the variance of the errors depends on the columns: {cure}"


def _order(found: dict[str, Any]) -> str:
    value = found["durbin_watson"]
    if not _has(value):
        return "Durbin-Watson has no value"
    text = f"Durbin-Watson {value:.3g} (2 if errors of neighbouring rows are unrelated): "
    if ALIKE <= value <= OPPOSED:
        return text + "no sign that the order of the rows matters"
    how = "are alike" if value < ALIKE else "have opposite signs"
    cure = "if the order is time or place, add it to the features, or use clusters"
    return text + f"errors of neighbouring rows {how}: {cure}"


def _shape(found: dict[str, Any], report: dict[str, Any]) -> str:
    test = found["jarque_bera"]
    if not _has(*test.values()):
        return "Jarque-Bera has no value"
    text = f"Jarque-Bera {test['statistic']:.4g} (p {test['p']:.2g}), skew {test['skew']:.3g}, kurtosis"
    text += f" {test['kurtosis']:.3g} (0 and 3 if normal): "
    if test["p"] >= UNLIKELY:
        return text + "no sign that the errors are not normal"
    also = "" if report["num_train"] >= MANY else ", and with so few rows t, F and p too"
    return text + f"the errors are not normal: doubt the intervals of predictions{also}"


def _rows(found: dict[str, Any]) -> str:
    first = found["influential"][0]
    which = f"row {first['row']}, counted from 0 (leverage {first['leverage']:.3g}"
    if not _has(first["cook"]):
        return f"{which}) alone tells a coefficient, so nothing can contradict it"
    if _has(first["studentized"]):
        which += f", studentized residual {first['studentized']:.3g}"
    if first["cook"] < INFLUENTIAL:
        return f"no row moves the fit by much: the largest Cook's distance is {first['cook']:.2g}, of {which})"
    several = [row["row"] for row in found["influential"] if not _has(row["cook"]) or row["cook"] >= INFLUENTIAL]
    more = f"; so do {', '.join(map(str, several[1:6]))}" if len(several) > 1 else ""
    return f"{which}) moves the fit, Cook's distance {first['cook']:.3g}{more}: look at it, or fit without it too"
