"""Runs train.py: in this process (0.9 s), in forks of one that has imported all (1 s), or as a shell does (5 s)."""

import contextlib
import gc
import io
import json
import logging
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import linreg_pl.cli.app  # noqa: F401  # so that every logger of Lightning exists before the first run
from linreg_pl.__main__ import main
from linreg_pl.callbacks import Figures

gc.freeze()  # as train.py does: what was imported is never garbage
gc.set_threshold(50_000, 50, 50)  # a tenth of the time of short fits would go into looking for garbage

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
SCRATCH = CONFIGS / "scratch.yaml"
CONCISE = CONFIGS / "concise.yaml"
TABLE = CONFIGS / "table.yaml"
DDP = CONFIGS / "trainer" / "ddp_cpu.yaml"
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as train.py does, but here the fork server imports torch
if hasattr(os, "fork"):  # not on Windows
    FORKS = multiprocessing.get_context("forkserver")
    FORKS.set_forkserver_preload(["tests.support.commands"])
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # Python shows users none


class Pictures:
    """Whether fits in this process and its forks draw: it takes longer than a short fit, and few tests look."""

    wanted = False
    draw = Figures._draw

    @staticmethod
    def draw_if_wanted(*arguments: Any) -> None:
        """Draw, or do not."""
        if Pictures.wanted:
            Pictures.draw(*arguments)


Figures._draw = Pictures.draw_if_wanted


class Outcome(NamedTuple):
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str
    cwd: Path  # where it ran

    @property
    def run(self) -> Path:
        """Folder of the only run there is."""
        (folder,) = self.cwd.glob("runs/*/version_*")
        return folder

    @property
    def report(self) -> dict[str, Any]:
        """The only run's report."""
        return json.loads((self.run / "report.json").read_text(encoding="utf-8"))

    @property
    def coefficients(self) -> dict[str, float]:
        """Estimates by name."""
        return {row["name"]: row["estimate"] for row in self.report["coefficients"]}

    @property
    def last(self) -> dict[str, Any]:
        """The only run's last checkpoint."""
        return torch.load(self.run / "checkpoints/last.ckpt", weights_only=True)

    def succeeded(self) -> "Outcome":
        """Return itself, if the command ended well and said nothing on stderr."""
        assert (self.status, self.stderr) == (0, ""), self.stdout
        return self


def in_process(cwd: Path, *arguments: Any, pictures: bool = False) -> Outcome:
    """Run ``train.py ARGUMENTS`` in a folder, in this process; warnings raise, as in every test."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        no_trace_left(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        lightning_logs_to(stderr),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        patch.setattr(Pictures, "wanted", pictures or Pictures.wanted)
        status = 0
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):  # as the interpreter does
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(status, stdout.getvalue(), stderr.getvalue(), cwd)


def in_subprocess(cwd: Path, *arguments: Any, launcher: tuple[str, ...] = ()) -> Outcome:
    """Run ``python LAUNCHER train.py ARGUMENTS`` in a folder."""
    command = [sys.executable, *launcher, str(REPOSITORY / "train.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    del environment["TORCH_CPP_LOG_LEVEL"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr, cwd)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def meeting(processes: int) -> list[dict[str, str]]:
    """Variables for the environment of each process, by which they find each other; none for one alone."""
    if processes == 1:
        return [{}]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    return [common | {"LOCAL_RANK": str(rank), "NODE_RANK": "0"} for rank in range(processes)]


class Forked:
    """A command on several processes, which find each other as those do that torchrun or a cluster starts.

    Args:
        cwd: where it runs; ``log`` and ``log.err`` there hold what it says.
        arguments: of ``train.py``.
        processes: how many; their number must be in the arguments too.
        environment: by default that of this process.
    """

    def __init__(
        self, cwd: Path, *arguments: Any, processes: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self.cwd = cwd
        common = dict(os.environ if environment is None else environment)
        words = list(map(str, arguments))
        self.processes = []
        for own in meeting(processes):
            process = FORKS.Process(target=_forked, args=(cwd, words, common | own, Pictures.wanted))
            process.start()
            self.processes.append(process)

    @property
    def stdout(self) -> str:
        """What it has said so far."""
        return self._said("log")

    @property
    def stderr(self) -> str:
        """The same of errors."""
        return self._said("log.err")

    def _said(self, name: str) -> str:
        return path.read_text() if (path := self.cwd / name).exists() else ""

    def end(self) -> Outcome:
        """Wait until all processes have ended; the status is the largest."""
        for process in self.processes:
            process.join(240)
            process.kill()
        status = max(abs(process.exitcode) for process in self.processes)
        return Outcome(status, self.stdout, self.stderr, self.cwd)


def _forked(cwd: Path, words: list[str], environment: dict[str, str], pictures: bool) -> None:
    Pictures.wanted = pictures
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # may have changed
    torch.set_num_threads(1)
    for number, name in ((1, "log"), (2, "log.err")):
        os.dup2(os.open(name, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
    sys.argv = ["train.py", *words]
    main()


def on_processes(count: int, cwd: Path, *arguments: Any) -> Outcome:
    """Run ``train.py ARGUMENTS`` in a folder, on so many processes of ddp."""
    several = ("--config", DDP, "--trainer.devices", count) if count > 1 else ()
    return Forked(cwd, *arguments, *several, processes=count).end()


@contextlib.contextmanager
def no_trace_left() -> Iterator[None]:
    """Put back what a run changes for the whole process."""
    environment, dtype = dict(os.environ), torch.get_default_dtype()
    hook = threading.excepthook
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    filters = {logger: logger.filters[:] for logger in lightning_loggers()}
    try:
        with warnings.catch_warnings():
            for unseen in HIDDEN:
                warnings.simplefilter("ignore", unseen)
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(False)
        torch.autograd.set_detect_anomaly(False)
        threading.excepthook = hook
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        for logger, kept in filters.items():
            logger.filters[:] = kept


@contextlib.contextmanager
def lightning_logs_to(stream: io.StringIO) -> Iterator[None]:
    """Send Lightning's log to a stream, and only there: its own handlers keep the stderr of its first import."""
    handler = logging.StreamHandler(stream)
    root = logging.getLogger("lightning")
    kept = {logger: (logger.handlers, logger.propagate) for logger in lightning_loggers()}
    for logger in kept:
        logger.handlers, logger.propagate = [], True
    root.handlers, root.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in kept.items():
            logger.handlers, logger.propagate = handlers, propagate


def lightning_loggers() -> list[logging.Logger]:
    """Every logger of Lightning."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "lightning"]
    return [logging.getLogger(name) for name in names]
