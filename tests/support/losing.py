"""A callback that loses one process: --trainer.callbacks tests.support.losing.Lose --trainer.callbacks.how kill."""

import os
import resource
import signal
import time
from pathlib import Path

import lightning.pytorch as L
import torch

from linreg_pl.engine import processes

AGES = 10_000  # seconds


class Lose(L.Callback):
    """Lets something happen to one process, in the first attempt of torchrun.

    Args:
        how: the name of a function below.
        rank: the process.
        when: the hook.
        step: the first at which it happens.
        others: what happens to the others at the same time.
    """

    def __init__(
        self, how: str, rank: int = 1, when: str = "on_train_batch_end", step: int = 0, others: str = "nothing"
    ) -> None:
        self.how, self.rank, self.step, self.others = how, rank, step, others
        setattr(self, when, self.happen)

    def happen(self, trainer, *_):
        if trainer.global_step >= self.step and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            Path("lost").write_text(os.environ["MASTER_PORT"])
            globals()[self.how if trainer.global_rank == self.rank else self.others]()


def nothing():
    """Lose none, but look for lost ones without a pause, so that the end comes amid a look."""
    processes.INTERVAL = 1e-5


def fail():
    raise KeyError("it")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def hang():
    time.sleep(AGES)


def kill_parent():
    os.kill(os.getppid(), signal.SIGKILL)


def memory():
    """Take all the memory that there is."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
    torch.zeros(2**32)


def full_disk():
    """Let no file grow large."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
