"""Fixtures that run the command line, and the runs that several tests look at."""

import itertools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import DataLoader

from tests.support import dashboard, services
from tests.support.commands import CONCISE, CONFIGS, SCRATCH, TABLE, Outcome, in_process, in_subprocess

collect_ignore = [] if dashboard.HAS_BROWSER else ["cli/test_browser.py"]
collect_ignore += [] if services.POSTGRES else ["tables/test_postgresql.py"]


def pytest_report_header() -> str:
    """Say what looks at TensorBoard; its data API is asked in any case, and .ci/run sees to the browser."""
    browser = dashboard.CHROMIUM if dashboard.HAS_BROWSER else "none, needs chromium and chromedriver"
    return f"browser: {browser}; PostgreSQL: {services.POSTGRES or 'none, needs postgresql'}"


# The same examples every time; for many more, other ones: python -m pytest tests/test_properties.py tests/test_fuzz.py
# --hypothesis-profile=long
COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=60, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=5000, **COMMON)
settings.load_profile("suite")


# What Lightning patches of loaders' classes while it asks for loaders, as it was before.
PATCHED = ("__init__", "__setattr__", "__delattr__")
UNPATCHED = {
    (kind, name): vars(kind)[name]
    for kind in get_all_subclasses(DataLoader) | {DataLoader}
    for name in PATCHED
    if name in vars(kind)
}


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Iterator[None]:
    """Put back what Lightning changes for the whole process when a run fails.

    After a KeyboardInterrupt it leaves Ctrl-C ignored, and after an error in a method that returns a loader it leaves
    all loaders' classes patched.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for kind, name in itertools.product(get_all_subclasses(DataLoader) | {DataLoader}, PATCHED):
        if f"__old{name}" in vars(kind):
            before = vars(kind)[f"__old{name}"]
            delattr(kind, f"__old{name}")
            delattr(kind, name)
            if (kind, name) in UNPATCHED:
                setattr(kind, name, UNPATCHED[kind, name])
            elif kind is not DataLoader:
                setattr(kind, name, before)


@pytest.fixture
def linreg(tmp_path: Path) -> Callable[..., Outcome]:
    """``linreg("fit", "--config", SCRATCH)``: in this process, in a folder of the test's own."""
    return lambda *arguments: in_process(tmp_path, *arguments)


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Outcome]:
    """``launch("fit", "--config", SCRATCH)``: in a process of its own, in a folder of the test's own."""
    return lambda *arguments, **launcher: in_subprocess(tmp_path, *arguments, **launcher)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw none where nobody looks: they take longer than a short fit. For runs in this process."""
    monkeypatch.setattr("linreg_pl.callbacks.figures.Figures._draw", lambda *_: None)


@pytest.fixture(scope="session")
def scratch_fit(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Notebook 1 as it is configured: look, but do not touch."""
    return in_process(tmp_path_factory.mktemp("scratch"), "fit", "--config", SCRATCH)


@pytest.fixture(scope="session")
def concise_fit(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Notebook 2 as it is configured: look, but do not touch."""
    return in_process(tmp_path_factory.mktemp("concise"), "fit", "--config", CONCISE)


@pytest.fixture(params=["scratch", "concise"])
def fitted(request: pytest.FixtureRequest) -> Outcome:
    """Each of both: look, but do not touch."""
    return request.getfixturevalue(f"{request.param}_fit")


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
        fits.append(in_process(folder / name, "fit", "--config", CONFIGS / f"{name}.yaml"))
    (folder / "table").mkdir()
    flags = ("--data.path", dashboard.write_misleading_table(folder / "t.csv"), "--trainer.max_epochs", 5)
    fits.append(in_process(folder / "table", "fit", "--config", TABLE, *flags))
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
