"""torchmetrics classes: state and synchronisation; the mathematics is in `linreg_pl.functional`."""

from linreg_pl.metrics.least_squares import TriangularFactor
from linreg_pl.metrics.merged import MergedMetric
from linreg_pl.metrics.scores import Scores

__all__ = ["MergedMetric", "Scores", "TriangularFactor"]
