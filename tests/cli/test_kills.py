"""Promise 3, by force; `tests/support/kills.py` has the long version."""

import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY


@pytest.mark.parametrize(
    "cases", [("scratch", "concise", "streamed"), ("fused", "exact", "processes", "exact-processes")], ids=" ".join
)
def test_killed_runs_end_with_the_same_bits_curves_and_report(cases):
    flags = [flag for case in cases for flag in ("--case", case)]
    command = [sys.executable, "-m", "tests.support.kills", "--kills", "2", *flags]
    outcome = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count(": all ends alike\n") == len(cases)
