"""Ends all processes of a run when one of them fails, is killed or hangs; one of them reports the cause.

They communicate through the key-value store of torch.distributed, which needs no collective operation. The store
is kept by torchrun, or else by process 0.
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
from queue import Empty, Queue
from typing import ClassVar, NoReturn

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from linreg_pl.errors import InputError, describe_error, error_line, lacks_memory
from linreg_pl.runs.checkpoints import newest
from linreg_pl.system import STOPPED

ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
TORCHRUN_STORE = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # it outlives the processes
INTERVAL = 0.5  # seconds between two checks of the other processes
GRACE = 4.0  # seconds that a process gets to end by itself
EXPECTED = (None, 0, *STOPPED)  # exit statuses of processes that still run, succeeded, or were told to stop
CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|timed? ?out", re.IGNORECASE)


class LostProcessError(RuntimeError):
    """Raised in the main thread of this process when another process is lost."""


class _State:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    rank = int(os.environ.get("RANK", local_rank))
    launcher: _SubprocessScriptLauncher | None = None
    children: ClassVar[list[subprocess.Popen[bytes]]] = []
    store_lost = False
    watcher: threading.Thread | None = None
    done = threading.Event()
    ending = threading.Lock()


def several() -> bool:
    """Whether this is one of several processes."""
    return "LOCAL_RANK" in os.environ or distributed.is_initialized()


def watch(trainer: Trainer, minutes: float) -> None:
    """Set the time limit of collectives, and start the thread that ends this process if another one fails.

    The Trainer must not have launched its processes yet.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or trainer.world_size == 1:
        return
    by_hand = isinstance(strategy.cluster_environment, LightningEnvironment)
    if trainer.num_nodes > 1 and by_hand and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"--trainer.num_nodes {trainer.num_nodes}: nothing starts the processes of the other machines; run the"
            f" command on each by torchrun --nnodes {trainer.num_nodes}, or leave the flag out"
        )
    _State.world_size, _State.rank, _State.local_rank = trainer.world_size, trainer.global_rank, trainer.local_rank
    strategy._timeout = timedelta(minutes=minutes)
    if not distributed.is_nccl_available():  # as on Windows, where GPUs talk by gloo
        strategy._process_group_backend = strategy._process_group_backend or "gloo"
    if sys.platform == "win32":  # torch has no libuv there
        os.environ.setdefault("USE_LIBUV", "0")
    if "LOCAL_RANK" not in os.environ and isinstance(strategy.launcher, _SubprocessScriptLauncher):
        _State.launcher = strategy.launcher
        os.environ["LINREG_PARENT"] = str(os.getpid())
    if ATTEMPT and TORCHRUN_STORE:  # by itself, torch would find the addresses of the previous attempt
        backend, rank = strategy._get_process_group_backend(), trainer.global_rank
        distributed.init_process_group(
            backend, timeout=strategy._timeout, rank=rank, world_size=trainer.world_size, store=_store(minutes=minutes)
        )
    _State.watcher = threading.Thread(target=_watch, daemon=True)
    _State.watcher.start()


def unwatch() -> None:
    """Stop the thread; the interpreter must not exit while the thread uses the store."""
    _State.done.set()
    if _State.watcher is not None:
        _State.watcher.join(GRACE)


def _watch() -> None:
    store, lost = None, not _torchrun_listens()
    while not lost:
        if _State.done.wait(INTERVAL):
            return
        try:
            if store is None and distributed.is_initialized():
                store = _store()
                store.set(f"name/{distributed.get_rank()}", f"pid {os.getpid()} on {socket.gethostname()}")
            lost = store is not None and store.check(["said"])
        except RuntimeError:  # the process that keeps the store is gone
            lost = _State.store_lost = True
        lost |= _orphaned() or any(child.poll() not in EXPECTED for child in _children())
    if _State.done.wait(GRACE):  # the main thread may know more
        return
    if _State.ending.acquire(blocking=False):  # the main thread is still busy, and has to clean up
        main = ctypes.c_ulong(threading.main_thread().ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(LostProcessError))
        _State.ending.release()
    if not _State.done.wait(GRACE):
        end(LostProcessError())


def _orphaned() -> bool:
    """Whether torchrun or Lightning launched this process and the launching process is gone."""
    return os.environ.get("LINREG_PARENT") not in (None, str(os.getpid()), str(os.getppid()))


def _torchrun_listens() -> bool:
    """Whether torchrun keeps its store, if it launched this process: it may end before this process knows its id."""
    if TORCHRUN_STORE:
        try:
            socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), GRACE).close()
        except ConnectionRefusedError:
            return False
        except OSError:  # slow, or not a network as we know it: torch tries for longer
            pass
    return True


def _children() -> list[subprocess.Popen[bytes]]:
    """Processes that Lightning launched; hidden from Lightning, which would kill this process without a message."""
    if _State.launcher is not None:
        _State.children.extend(_State.launcher.procs)
        _State.launcher.procs.clear()
    return _State.children


def end(error: Exception) -> NoReturn:
    """End this process, and report the cause unless another process does.

    The first process that calls this reports its cause; one that only lost another process waits for that one first.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun has noticed too
    with suppress(LostProcessError):  # which the watching thread may have raised a moment ago
        _State.ending.acquire()
    rank = distributed.get_rank() if distributed.is_initialized() else _State.rank
    lost = isinstance(error, RuntimeError) and (
        isinstance(error, (LostProcessError, distributed.DistError)) or CONNECTION.search(str(error))
    )
    cause, slow = "" if lost else _cause(error, rank), "imed out" in str(error)
    heard: str | None = None
    answers: Queue[str] = Queue()
    keeps_store, deadline = bool(cause) and rank == 0 and not TORCHRUN_STORE, time.monotonic() + 2 * GRACE

    def ask() -> None:
        with suppress(RuntimeError):
            store = _store(keeps=keeps_store and not distributed.is_initialized())  # none of them has met another yet
            text = cause or _roll_call(store, rank, slow)
            answers.put(text if store.add("said", 1) == 1 else "")
            while keeps_store and time.monotonic() < deadline and store.add("said", 0) < _State.world_size:
                time.sleep(0.1)  # the others may have failed alike, and ask soon

    asking = threading.Thread(target=ask, daemon=True)  # as a store that cannot be reached never answers
    try:
        asking.start()
    except RuntimeError:  # no memory for a thread
        ask()
    with suppress(Empty):
        heard = answers.get(timeout=0 if _State.store_lost else 2 * GRACE)
    if heard is None:  # the store is gone or cannot be reached: one process on each host reports it
        first_is_lost = not TORCHRUN_STORE and (_orphaned() or (_State.store_lost and rank == _State.local_rank))
        speaks = cause or _State.local_rank == int(first_is_lost)
        keeper = f"torchrun at {os.environ['MASTER_ADDR']}" if TORCHRUN_STORE else _names([0] if rank else [1])
        heard = (cause or _loss(keeper, slow)) if speaks else ""
    if heard:
        print(error_line(" ".join(heard.split())), file=sys.stderr, flush=True)
    sys.stdout.flush()
    if asking.is_alive() and keeps_store and not _children():
        asking.join(GRACE)
    patience = time.monotonic() + GRACE
    for child in _children():
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, patience - time.monotonic()))
        child.kill()
    os._exit(1)  # immediately, as torch might wait forever


def _cause(error: Exception, rank: int) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) or lacks_memory(error):
        fewer = "; start fewer processes on a host" if lacks_memory(error) else ""
        return f"{_names([rank])}: {describe_error(error)}{fewer}"
    return f"{_names([rank])} failed: {type(error).__name__}: {str(error)[:300]} (LINREG_DEBUG=1 shows where)"


def _roll_call(store: Store, rank: int, slow: bool) -> str:
    """Find out which processes are lost: those that do not answer within a few seconds."""
    everyone, deadline = range(_State.world_size), time.monotonic() + GRACE
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
    return f"process {', '.join(map(str, ranks)) or '?'} of {_State.world_size}"


def _loss(who: str, slow: bool) -> str:
    how = "did not answer within --timeout: hung, cut off, or slow" if slow else "is lost: killed, or cut off"
    return f"{who} {how}; to continue a fit, use --resume"


def publish_run_folder(folder: Path) -> None:
    """Store the run's folder for `previous_checkpoint`; called by process 0 only."""
    if TORCHRUN_STORE:
        _store().set("folder", str(folder))


def previous_checkpoint() -> Path | None:
    """Return the newest checkpoint of earlier attempts, if torchrun has restarted the processes.

    Process 0 searches, and the others use what it found.
    """
    if not ATTEMPT or not TORCHRUN_STORE:
        return None
    store = _store(minutes=10)
    if os.environ["RANK"] == "0":
        stores = [_store(attempt) for attempt in reversed(range(ATTEMPT))]
        folders = [Path(earlier.get("folder").decode()) for earlier in stores if earlier.check(["folder"])]
        store.set("from", str(next(filter(None, map(newest, folders)), "")))
    found = store.get("from").decode()
    return Path(found) if found else None


def _store(attempt: int = ATTEMPT, minutes: float = GRACE / 60, keeps: bool = False) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(minutes=minutes)
    store = TCPStore(
        address, port, is_master=keeps, timeout=wait, wait_for_workers=False, use_libuv=sys.platform != "win32"
    )
    return PrefixStore(f"linreg_pl/{attempt}", store)
