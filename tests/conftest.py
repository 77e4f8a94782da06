"""Fixtures that run the command line, and the runs that several tests look at."""

import itertools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from lightning.fabric.utilities import data as lightning_patch
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import BatchSampler, DataLoader

from tests.support import dashboard, services
from tests.support.commands import CONCISE, CONFIGS, SCRATCH, TABLE, Outcome, in_process, in_subprocess

collect_ignore = [] if dashboard.HAS_BROWSER else ["cli/test_browser.py"]
collect_ignore += [] if services.POSTGRES else ["tables/test_postgresql.py"]


def pytest_report_header() -> str:
    """Say what looks at TensorBoard; its data API is asked in any case, and .ci/run sees to the browser."""
    browser = dashboard.CHROMIUM if dashboard.HAS_BROWSER else "none, needs chromium and chromedriver"
    return f"browser: {browser}; PostgreSQL: {services.POSTGRES or 'none, needs postgresql'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests that mostly wait, for time limits and processes, so that others run meanwhile."""
    waiting = ("test_losing_processes", "test_kills", "test_processes", "test_signals")
    items.sort(key=lambda item: item.path.stem not in waiting)


# The same examples every time; for many more, other ones: python -m pytest tests/test_properties.py tests/test_fuzz.py
# --hypothesis-profile=long
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=60, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=5000, **COMMON)
settings.load_profile("suite")


PATCHED = ("__init__", "__setattr__", "__delattr__")  # by Lightning, of loaders' classes, while it asks for loaders


def unpatched(method: Any) -> Any:
    """The method that Lightning has wrapped, perhaps several times."""
    while getattr(method, "__code__", None) and method.__code__.co_filename == lightning_patch.__file__:
        method = method.__wrapped__
    return method


def unpatch() -> None:
    """Put back the methods of loaders' classes."""
    kinds = {DataLoader, BatchSampler} | get_all_subclasses(DataLoader) | get_all_subclasses(BatchSampler)
    for kind, name in itertools.product(kinds, PATCHED):
        if name in vars(kind):
            setattr(kind, name, unpatched(vars(kind)[name]))
        if f"__old{name}" in vars(kind):
            delattr(kind, f"__old{name}")


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Iterator[None]:
    """Put back what Lightning changes for the whole process when a run fails.

    After a KeyboardInterrupt it leaves Ctrl-C ignored, and after an error in a method that returns a loader it leaves
    all loaders' classes patched.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    unpatch()  # what fixtures of longer life left
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    unpatch()


@pytest.fixture
def linreg(tmp_path: Path) -> Callable[..., Outcome]:
    """``linreg("fit", "--config", SCRATCH)``: in this process, in a folder of the test's own."""
    return lambda *arguments: in_process(tmp_path, *arguments)


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Outcome]:
    """``launch("fit", "--config", SCRATCH)``: in a process of its own, in a folder of the test's own."""
    return lambda *arguments, **launcher: in_subprocess(tmp_path, *arguments, **launcher)


@pytest.fixture(scope="session")
def scratch_fit(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Notebook 1 as it is configured: look, but do not touch."""
    return in_process(tmp_path_factory.mktemp("scratch"), "fit", "--config", SCRATCH, pictures=True)


@pytest.fixture(scope="session")
def concise_fit(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Notebook 2 as it is configured: look, but do not touch."""
    return in_process(tmp_path_factory.mktemp("concise"), "fit", "--config", CONCISE, pictures=True)


@pytest.fixture(params=["scratch", "concise"])
def fitted(request: pytest.FixtureRequest, scratch_fit: Outcome, concise_fit: Outcome) -> Outcome:
    """Each of both: look, but do not touch."""
    return {"scratch": scratch_fit, "concise": concise_fit}[request.param]


@pytest.fixture
def fitted_copy(fitted: Outcome, tmp_path: Path) -> Outcome:
    """Each of both, in a folder of the test's own."""
    shutil.copytree(fitted.cwd, tmp_path, dirs_exist_ok=True)
    return fitted._replace(cwd=tmp_path)


@pytest.fixture(scope="session")
def board(
    scratch_fit: Outcome, concise_fit: Outcome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dashboard.Board]:
    """TensorBoard over five runs: every model as it is configured, and a table with misleading names of columns."""
    folder = tmp_path_factory.mktemp("board")
    fits = [scratch_fit, concise_fit]
    for name in ("fused", "exact"):
        (folder / name).mkdir()
        fits.append(in_process(folder / name, "fit", "--config", CONFIGS / f"{name}.yaml", pictures=True))
    (folder / "table").mkdir()
    flags = ("--data.path", dashboard.write_misleading_table(folder / "t.csv"), "--trainer.max_epochs", 5)
    fits.append(in_process(folder / "table", "fit", "--config", TABLE, *flags, pictures=True))
    with dashboard.board(folder, [fit.succeeded() for fit in fits]) as board:
        yield board


@pytest.fixture(scope="session")
def s3() -> Iterator[services.S3]:
    """A local S3 server with a bucket."""
    with services.s3_server() as server:
        yield server


@pytest.fixture
def faulty(s3: services.S3) -> Iterator[services.Faulty]:
    """The same server, seen through one that does not do what it should."""
    with services.faulty_server(s3) as server:
        yield server
