"""An epoch loop whose steps cost little more than the model's own work.

In each step, Lightning's loop asks anew which hooks, profilers, loaders and devices there are. This takes
several times as long as a step of linear regression on a small mini-batch. Here these questions are asked once
per epoch. What is not done here is left to Lightning's loop, which gives the same results more slowly.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from linreg_pl.engine.direct_steps import DirectSteps, can_step_directly


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the training batches of an epoch, with the same hooks and counters but cheaper steps."""

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._steps: DirectSteps | None = None
        self._plateau_stepped = False

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Train on the batches of one epoch."""
        try:
            super().run(data_fetcher)
        finally:
            if self._steps is not None:
                self._steps.close()
                self._steps = None

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Look up once what does not change from step to step."""
        super().on_run_start(data_fetcher)
        self._plateau_stepped = False
        if can_step_directly(self.trainer, data_fetcher):
            self._steps = DirectSteps(self, data_fetcher)
            if not self.restarting:
                self.val_loop.restarting = False

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Take one step; the first one after a restart within an epoch is Lightning's."""
        if self._steps is None or self.restarting:
            super().advance(data_fetcher)
        else:
            self._steps.take()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validate if it is time to, and count the step."""
        trainer = self.trainer
        if (
            self._steps is None
            or trainer.should_stop
            or trainer.received_sigterm
            or trainer.strategy.lr_scheduler_configs
            or (
                (self.restarting or self.batch_progress.is_last_batch or not self._steps.validates_at_end)
                and self._should_check_val_fx(data_fetcher)
            )
        ):
            super().on_advance_end(data_fetcher)
        else:
            self._batches_that_stepped += 1

    def step_plateau_schedulers(self) -> None:
        """Step the schedulers that wait for a plateau now, before the epoch's checkpoint, instead of after it."""
        self.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        self._plateau_stepped = True

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        """Step the schedulers of an interval, but those that wait for a plateau only once in an epoch."""
        if not (self._plateau_stepped and update_plateau_schedulers and interval == "epoch"):
            super().update_lr_schedulers(interval, update_plateau_schedulers)

    def _broadcast_sigterm_tensor(self) -> None:
        """Ask all processes for SIGTERM, unless a callback with a true ``handles_sigterm`` sees to that."""
        if not any(getattr(callback, "handles_sigterm", False) for callback in self.trainer.callbacks):
            super()._broadcast_sigterm_tensor()
