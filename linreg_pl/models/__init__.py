"""The ways to fit a line, all LightningModules."""

from linreg_pl.models.base import LinearModel
from linreg_pl.models.concise import Concise
from linreg_pl.models.elastic_net import ElasticNet
from linreg_pl.models.exact import Exact
from linreg_pl.models.fused import Fused
from linreg_pl.models.scratch import Scratch

__all__ = ["Concise", "ElasticNet", "Exact", "Fused", "LinearModel", "Scratch"]
