"""Runs ``train.py`` as if on Windows: ``python -m tests.support.windows fit --config scratch then report …``.

What Windows lacks is taken away before the program is imported, and what it forbids is refused: nobody may remove or
replace a file that is open, in C++ too or in another process of the session, as /proc tells. The name that Lightning
needs to start further processes is that of this module, so that those run in the same way.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

PLAIN = {name: getattr(os, name) for name in ("open", "close", "fsync", "stat", "unlink", "rename", "replace")}
LACKING = ("preadv", "pread", "readv", "O_DIRECTORY")
TEMPORARY, BINARY = 1 << 28, 1 << 29
deleted_when_closed: dict[str, set[int]] = {}  # descriptors by path


def imitate():
    """Make this process one of Windows, as far as this program can tell."""
    import fcntl

    import torch.utils.tensorboard  # noqa: F401
    from lightning.fabric.strategies.launchers import subprocess_script
    from lightning.pytorch.trainer.connectors import signal_connector

    subprocess_script.signal = SimpleNamespace(**vars(signal))  # looks for the system by its name
    signal_connector._IS_WINDOWS = True
    signal.valid_signals = lambda: {signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGFPE, signal.SIGSEGV}
    signal.SIGBREAK = signal.SIGQUIT
    del signal.SIGKILL
    subprocess.Popen.kill = lambda process: process.send_signal(9)
    for name in LACKING:
        delattr(os, name)
    os.O_TEMPORARY, os.O_BINARY = TEMPORARY, BINARY
    forbid(fcntl)
    locks = ModuleType("msvcrt")
    locks.LK_NBLCK, locks.locking = 2, partial(lock, fcntl)
    sys.modules["fcntl"], sys.modules["msvcrt"] = None, locks


def lock(fcntl, descriptor, mode, count):
    """Lock some bytes, and raise what Windows raises when another process has done so."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count)
    except OSError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


def forbid(fcntl):
    """Let system calls raise what they raise on Windows."""

    def opened(path, flags, mode=0o777, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        descriptor = PLAIN["open"](path, flags & ~(TEMPORARY | BINARY), mode, **options)
        if flags & TEMPORARY:
            deleted_when_closed.setdefault(os.path.realpath(path), set()).add(descriptor)
        return descriptor

    def close(descriptor):
        PLAIN["close"](descriptor)
        for path, descriptors in list(deleted_when_closed.items()):
            descriptors.discard(descriptor)
            if not descriptors:
                del deleted_when_closed[path]
                if os.path.exists(path):  # not yet by another process
                    PLAIN["unlink"](path)

    def fsync(file):
        descriptor = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        PLAIN["fsync"](descriptor)

    def stat(path, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return PLAIN["stat"](path, **options)

    def unlink(path, *, dir_fd=None):
        refuse_if_open(path)
        PLAIN["unlink"](path)

    def renaming(name):
        def rename(source, target, **options):
            refuse_if_open(source)
            refuse_if_open(target)
            PLAIN[name](source, target, **options)

        return rename

    os.open, os.close, os.fsync, os.stat, os.unlink, os.remove = opened, close, fsync, stat, unlink, unlink
    os.rename, os.replace = renaming("rename"), renaming("replace")
    shutil._use_fd_functions = False


def refuse_if_open(path):
    """Raise what Windows raises when a file that is open is removed or replaced."""
    holder = holder_of(os.path.realpath(path)) if os.path.isfile(path) else None
    if holder is not None:
        error = PermissionError(errno.EACCES, f"process {holder} has the file open", os.fspath(path))
        error.winerror = 32
        raise error


def holder_of(path):
    """Return the process of this session that has a file open or mapped into its memory, if there is one."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(process)) != os.getsid(0):
                continue
            held = {os.readlink(f"/proc/{process}/fd/{number}") for number in os.listdir(f"/proc/{process}/fd")}
            if path in held or f" {path}\n" in Path(f"/proc/{process}/maps").read_text():
                return process
        except OSError:  # it has just ended, or closed a file
            continue
    return None


def run_commands():
    """Run the commands in ``sys.argv``, one after another."""
    from linreg_pl.__main__ import main

    commands, words = [[]], sys.argv[1:]
    for word in words:
        commands.append([]) if word == "then" else commands[-1].append(word)
    for command in commands:
        sys.argv = ["train.py", *command]
        main()


if __name__ == "__main__":
    imitate()
    run_commands()
