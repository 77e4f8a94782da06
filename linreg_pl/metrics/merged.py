"""The base class of metrics whose state is one float64 tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MergedMetric(Metric):
    """Metric that keeps one summary of all rows, merged over batches and processes.

    The state stays float64, even after ``.to(dtype)`` and with any ``precision``, as a summary
    of lower precision would lose the digits that it is meant to keep.

    Args:
        empty: summary of no rows.
        merge: merges stacked summaries of shape ``(k, …)`` into one; a module-level function, which can be pickled.
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
        """Move to another device with the module, but keep the dtype."""
        kept = self.summary
        super()._apply(fn, exclude_state)
        self.summary = kept.to(self.summary.device)
        return self
