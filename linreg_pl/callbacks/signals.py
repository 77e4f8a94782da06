"""Stops a fit on Ctrl-C and SIGTERM without losing a step."""

import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch

from linreg_pl.callbacks.checkpoint import Checkpoint
from linreg_pl.errors import InputError, as_run
from linreg_pl.system import STOP_SIGNALS

PATIENCE = 0.2  # seconds between two questions of several processes whether one of them was told to stop
MOST_STEPS = 64  # between two questions


class StopSignals(L.Callback):
    """Finishes the step, saves, lets ``results`` write the report so far, says how to go on, and exits with 130 or 143.

    A second Ctrl-C stops at once. All processes stop after the same step, whichever of them was told to.
    """

    handles_sigterm = True  # the epoch loop need not ask all processes for it at every step

    def __init__(self, results: list[L.Callback]) -> None:
        self.results = results
        self._received = 0
        self._several = False
        self._interval = 1  # steps after which processes ask each other, the same for all
        self._until_asked = 0
        self._asked = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Listen from now on, instead of Lightning, which would exit with status 0 and save nothing."""
        self._several = trainer.world_size > 1
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received == number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self._received = number

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop, if any process was told to; after the last step of an epoch once its scores are known."""
        if not (self._received or self._several) or trainer.is_last_batch:
            return
        if not (trainer.accumulate_grad_batches > 1 and trainer.fit_loop._should_accumulate()):
            self._stop_if_told(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop, if any process was told to."""
        self._until_asked = 0
        self._stop_if_told(trainer, pl_module)

    def _is_told(self, trainer: L.Trainer) -> bool:
        """Whether any process was; several ask each other, which costs as much as a step, a few times a second."""
        if not self._several:
            return bool(self._received)
        self._until_asked -= 1
        if self._until_asked > 0:
            return False
        now = time.monotonic()
        mine = torch.tensor([bool(self._received), now - self._asked], dtype=torch.float64)
        told, seconds = trainer.strategy.reduce(mine.to(trainer.strategy.root_device), reduce_op="max").tolist()
        self._asked = now
        self._interval = min(2 * self._interval, MOST_STEPS) if seconds < PATIENCE else max(1, self._interval // 2)
        self._until_asked = self._interval
        return bool(told)

    def _stop_if_told(self, trainer: L.Trainer, model: Any) -> None:
        if not self._is_told(trainer):
            return
        number = signal.Signals(self._received or signal.SIGTERM)  # another process may have been told
        where = f"stopped by {number.name} after step {trainer.global_step}"
        checkpoint = trainer.checkpoint_callback
        if not model.has_coefficients:
            where += ", within the pass, where nothing is known yet; the same command begins anew"
        else:
            if isinstance(checkpoint, Checkpoint):
                checkpoint.save_now(trainer)
                run = f"--config {trainer.log_dir}/config.yaml --ckpt_path {checkpoint.last_model_path}"
                where += f"; go on with: {as_run('python train.py')} fit {run}"
            for callback in self.results:
                with suppress(InputError):  # of a poor fit, as may be expected of one that was stopped
                    callback.on_fit_end(trainer, model)
        if trainer.is_global_zero:
            print(where, flush=True)
        sys.exit(128 + number)
