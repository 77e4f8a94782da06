"""Fixtures that run the command line in a folder of the test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Outcome, in_process, in_subprocess


@pytest.fixture
def linreg(tmp_path: Path) -> Callable[..., Outcome]:
    """``linreg("fit", "--config", SCRATCH)``: in this process."""
    return lambda *arguments: in_process(tmp_path, *arguments)


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Outcome]:
    """``launch("fit", "--config", SCRATCH)``: in a process of its own, or several."""
    return lambda *arguments, **launcher: in_subprocess(tmp_path, *arguments, **launcher)
