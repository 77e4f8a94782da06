"""What becomes of a run when one of its processes fails, is killed or hangs: the others end, and one says why.

They talk through the store of torch.distributed, which needs no collective: torchrun keeps it, or else process 0.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, NoReturn

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from linreg_pl.checkpoints import newest
from linreg_pl.console import RED, printable, styled
from linreg_pl.errors import InputError, sentence

ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
KEPT = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # the store outlives the processes
INTERVAL = 0.5  # seconds between two looks at the others
GRACE = 4.0  # seconds for what a process does by itself, before it is made to
STOPPED = (None, 0, 130, 143)  # exit statuses of processes that run, are done, or were told to stop
CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|timed? ?out", re.IGNORECASE)


class LostProcessError(RuntimeError):
    """Another process is gone, while this one was at work of its own."""


class _Here:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    launcher: _SubprocessScriptLauncher | None = None
    children: ClassVar[list[subprocess.Popen[bytes]]] = []
    alone = False  # without a store
    watcher: threading.Thread | None = None
    done = threading.Event()
    ending = threading.Lock()


def several() -> bool:
    """Whether this is one of several processes."""
    return "LOCAL_RANK" in os.environ or distributed.is_initialized()


def watch(trainer: Trainer, minutes: float) -> None:
    """Let no collective wait for longer, and end this process soon after another failed.

    Args:
        trainer: before it launches processes.
        minutes: that a collective may take.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or trainer.world_size == 1:
        return
    _Here.world_size = trainer.world_size
    strategy._timeout = timedelta(minutes=minutes)
    if "LOCAL_RANK" not in os.environ and isinstance(strategy.launcher, _SubprocessScriptLauncher):
        _Here.launcher = strategy.launcher
        os.environ["LINREG_PARENT"] = str(os.getpid())
    if ATTEMPT and KEPT:  # torch itself would meet the addresses of the attempt before this one in the store
        backend, rank = strategy._get_process_group_backend(), trainer.global_rank
        distributed.init_process_group(
            backend, timeout=strategy._timeout, rank=rank, world_size=trainer.world_size, store=_store(minutes=minutes)
        )
    _Here.watcher = threading.Thread(target=_watch, daemon=True)
    _Here.watcher.start()


def unwatch() -> None:
    """End the watch; the interpreter may not end while a thread of its own asks the store."""
    _Here.done.set()
    if _Here.watcher is not None:
        _Here.watcher.join(GRACE)


def _watch() -> None:
    store, lost = None, False
    while not lost:
        if _Here.done.wait(INTERVAL):
            return
        try:
            if store is None and distributed.is_initialized():
                store = _store()
                store.set(f"name/{distributed.get_rank()}", f"pid {os.getpid()} on {socket.gethostname()}")
            lost = store is not None and store.check(["said"])
        except RuntimeError:  # who kept the store is gone
            lost = _Here.alone = True
        lost |= _orphaned() or any(child.poll() not in STOPPED for child in _children())
    if _Here.done.wait(GRACE):  # the main thread may know more
        return
    if not _Here.ending.locked():  # it is at work, and has to clean up
        main = ctypes.c_ulong(threading.main_thread().ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(LostProcessError))
    if not _Here.done.wait(GRACE):
        end(LostProcessError())


def _orphaned() -> bool:
    """Whether Lightning launched this process from one that is gone."""
    return os.environ.get("LINREG_PARENT") not in (None, str(os.getpid()), str(os.getppid()))


def _children() -> list[subprocess.Popen[bytes]]:
    """Processes that Lightning launched, out of the hands of its observer, which would kill this one without a word."""
    if _Here.launcher is not None:
        _Here.children.extend(_Here.launcher.procs)
        _Here.launcher.procs.clear()
    return _Here.children


def end(error: Exception, status: int = 1) -> NoReturn:
    """Say once for all processes why the run ends, and end this one.

    The first to come says it. Who only lost another gives that one time to come first.

    Args:
        error: what went wrong here.
        status: of the exit.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun has noticed too
    _Here.ending.acquire()
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    rank = distributed.get_rank() if distributed.is_initialized() else rank
    lost = isinstance(error, RuntimeError) and (
        isinstance(error, (LostProcessError, distributed.DistError)) or CONNECTION.search(str(error))
    )
    cause, slow = "" if lost else _cause(error, rank), "imed out" in str(error)
    heard: list[str] = []

    def ask() -> None:
        with suppress(RuntimeError):
            store = _store()
            text = cause or _roll_call(store, rank, slow)
            heard.append(text if store.add("said", 1) == 1 else "")

    asking = threading.Thread(target=ask, daemon=True)  # a store that is cut off never answers
    try:
        asking.start()
    except RuntimeError:  # no memory for it
        ask()
    else:
        asking.join(0 if _Here.alone else 2 * GRACE)
    if not heard:  # the store is gone with process 0 or torchrun, or out of reach: one on each host says so
        speaks = cause or os.environ.get("LOCAL_RANK", "0") == ("1" if _orphaned() else "0")
        keeper = f"torchrun at {os.environ['MASTER_ADDR']}" if KEPT else _names([0] if rank else [1])
        heard.append((cause or _loss(keeper, slow)) if speaks else "")
    if heard[0]:
        text = printable(" ".join(heard[0].split()))
        print(f"{styled('error:', RED, sys.stderr)} {text}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    deadline = time.monotonic() + GRACE
    for child in _children():
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        child.kill()
    os._exit(status)  # at once: what torch would wait for may never come


def _cause(error: Exception, rank: int) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError | MemoryError):
        fewer = "; start fewer processes on a host" if isinstance(error, MemoryError) else ""
        return f"{_names([rank])}: {sentence(error)}{fewer}"
    return f"{_names([rank])} failed: {type(error).__name__}: {str(error)[:300]} (LINREG_DEBUG=1 shows where)"


def _roll_call(store: Store, rank: int, slow: bool) -> str:
    """Find out who is lost: who does not answer within a few seconds."""
    everyone, deadline = range(_Here.world_size), time.monotonic() + GRACE
    store.set(f"here/{rank}", "slow" if slow else "")
    while True:
        missing = [other for other in everyone if not store.check([f"here/{other}"])]
        if len(missing) < 2 or store.check(["said"]) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    slow = any(store.get(f"here/{other}") == b"slow" for other in everyone if other not in missing)
    known = [store.get(f"name/{other}").decode() for other in missing if store.check([f"name/{other}"])]
    return _loss(_names(missing) + (f" ({'; '.join(known)})" if known else ""), slow)


def _names(ranks: list[int]) -> str:
    return f"process {', '.join(map(str, ranks)) or '?'} of {_Here.world_size}"


def _loss(who: str, slow: bool) -> str:
    how = "did not answer within --timeout: hung, cut off, or slow" if slow else "is lost: killed, or cut off"
    return f"{who} {how}; a fit goes on with --resume"


def remember(folder: Path) -> None:
    """Note the run's folder for `interrupted`. Only process 0 calls it."""
    if KEPT:
        _store().set("folder", str(folder))


def interrupted() -> Path | None:
    """Newest checkpoint of the attempts before this one, where torchrun starts the processes again.

    Process 0 looks, and the others do as it says.
    """
    if not ATTEMPT or not KEPT:
        return None
    store = _store(minutes=10)
    if os.environ["RANK"] == "0":
        stores = [_store(attempt) for attempt in reversed(range(ATTEMPT))]
        folders = [Path(earlier.get("folder").decode()) for earlier in stores if earlier.check(["folder"])]
        store.set("from", str(next(filter(None, map(newest, folders)), "")))
    found = store.get("from").decode()
    return Path(found) if found else None


def _store(attempt: int = ATTEMPT, minutes: float = GRACE / 60) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(minutes=minutes))
    return PrefixStore(f"linreg_pl/{attempt}", store)
