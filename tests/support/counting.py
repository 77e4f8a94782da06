"""A callback for the command line: counts the sums over processes within training steps."""

import lightning.pytorch as L
import torch.distributed

from linreg_pl.functional.fused import steps
from linreg_pl.models import fused


class CountReductions(L.Callback):
    """Prints how many all-reduces the training steps made, and how many training steps there were.

    Args:
        scan: let `Fused` go by the scan here too, as it does on a GPU.
    """

    def __init__(self, scan: bool = False) -> None:
        if scan:
            steps.by_moments = fused.by_moments = lambda _: True
        self.reductions = self.chunks = 0
        self.original = torch.distributed.all_reduce

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.chunks += 1
        torch.distributed.all_reduce = self.counted

    def counted(self, *arguments, **options):
        self.reductions += 1
        return self.original(*arguments, **options)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.distributed.all_reduce = self.original

    def on_fit_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            print(f"reductions {self.reductions} chunks {self.chunks}")
