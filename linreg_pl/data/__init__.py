"""LightningDataModules, and the order in which rows are served."""

from linreg_pl.data.base import DataModule
from linreg_pl.data.batch import Batch
from linreg_pl.data.perturbed import Perturbed
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.data.table import Table

__all__ = ["Batch", "DataModule", "Perturbed", "Synthetic", "Table"]
