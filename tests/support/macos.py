"""Runs ``train.py`` as if on macOS: ``python -m tests.support.macos fit --config scratch then report …``.

There is neither preadv nor /proc, processes are spawned, fsync leaves data in the drive's memory, where a file named by
FLUSHED counts what is flushed from there, and a GPU that knows no float64 is at hand.
"""

import multiprocessing
import os
from pathlib import Path

from tests.support.windows import run_commands

F_FULLFSYNC = 51
LACKING = ("preadv", "sched_getaffinity", "posix_fadvise", "memfd_create", "O_DIRECT")


def imitate():
    """Make this process one of macOS, as far as this program can tell."""
    import fcntl

    import torch.utils.tensorboard  # noqa: F401
    from lightning.pytorch.accelerators import MPSAccelerator

    control, stat = fcntl.fcntl, os.stat

    def full_fcntl(descriptor, command, *arguments):
        if command != F_FULLFSYNC:
            return control(descriptor, command, *arguments)
        with Path(os.environ["FLUSHED"]).open("a") as file:
            file.write(".")
        return os.fsync(descriptor)

    def plain_stat(path, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(2, os.strerror(2), path)
        return stat(path, **options)

    fcntl.F_FULLFSYNC, fcntl.fcntl, os.stat = F_FULLFSYNC, full_fcntl, plain_stat
    for name in LACKING:
        delattr(os, name)
    MPSAccelerator.is_available = staticmethod(lambda: True)
    multiprocessing.set_start_method("spawn")


if __name__ == "__main__":
    imitate()
    run_commands()
