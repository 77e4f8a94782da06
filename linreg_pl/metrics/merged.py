"""A metric whose whole state is one float64 tensor that merges."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MergedMetric(Metric):
    """Base of metrics that keep one summary and merge it over batches and processes.

    The state stays float64 whatever ``precision`` or ``.to(dtype)`` is asked for:
    a summary in less loses the digits it exists to keep.

    Args:
        empty: summary of no rows.
        merge: merges ``(k, …)`` stacked summaries into one; a function of a module, so that it can be pickled.
    """

    full_state_update = False
    summary: Tensor

    def __init__(self, empty: Tensor, merge: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.merge = merge
        self.add_state("summary", default=empty, dist_reduce_fx=merge)

    def absorb(self, summary: Tensor) -> None:
        """Merge one more summary into the state."""
        self.summary = self.merge(torch.stack([self.summary, summary]))

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> "MergedMetric":
        """Follow a module to another device, but never to another dtype."""
        kept = self.summary
        super()._apply(fn, exclude_state)
        self.summary = kept.to(self.summary.device)
        return self
