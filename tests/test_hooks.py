import inspect

import lightning.pytorch as L

from linreg_pl.callbacks import Together
from linreg_pl.hooks import STEP_HOOKS
from linreg_pl.models import Scratch


class Watcher(L.Callback):
    def on_after_backward(self, trainer, pl_module):
        """Watch."""


def test_only_hooks_in_use_are_kept():
    together = Together([Watcher(), L.Callback()])
    assert [hook for hook in STEP_HOOKS if getattr(together, hook) is not None] == ["on_after_backward"]


def test_a_hook_that_a_subclass_uses_is_kept():
    class Watched(Scratch):
        def on_train_batch_start(self, batch, batch_idx):
            """Watch."""

    assert callable(Watched(2).on_train_batch_start)
    assert Scratch(2).on_train_batch_start is None


def test_a_subclass_with_its_own_step_is_asked_for_its_own_arguments():
    class Shorter(Scratch):
        def training_step(self, batch):
            """Take no step."""

    assert list(inspect.signature(Shorter.training_step).parameters) == ["self", "batch"]
