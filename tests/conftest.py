"""Fixtures that run the command line, and the runs that several tests look at."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import CONCISE, SCRATCH, Outcome, in_process, in_subprocess


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
