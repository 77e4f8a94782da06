import io
import os
import pty
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from linreg_pl.tables import progress
from tests.support.commands import REPOSITORY
from tests.test_main import on_a_terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


def pieces(count, pause=0.0):
    for _ in range(count):
        time.sleep(pause)
        yield SimpleNamespace(batch=SimpleNamespace(num_rows=1000))


def watch(monkeypatch, *arguments):
    """Return what a terminal shows; to be called in a test, as pytest replaces stderr before it."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Terminal())
        list(progress.with_progress(*arguments))
        return sys.stderr.getvalue()


def test_long_work_shows_rows_per_second_and_time_left(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.05)
    shown = watch(monkeypatch, pieces(30, pause=0.02), 30_000, "houses.csv")
    assert "houses.csv: " in shown
    assert " rows/s]" in shown
    assert "/30.0k" in shown
    assert shown.rsplit("\r", 2)[1].strip() == ""  # it is erased at the end


def test_short_work_shows_nothing(monkeypatch):
    assert watch(monkeypatch, pieces(30, pause=0.02), 30_000, "houses.csv") == ""


def test_all_pieces_pass():
    assert len(list(progress.with_progress(pieces(30), 30_000, "houses.csv"))) == 30


def test_nothing_is_shown_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    list(progress.with_progress(pieces(3, pause=0.15), 3000, "houses.csv"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("rank", "shows"), [("0", True), ("1", False)])
def test_one_process_of_several_shows_it(monkeypatch, rank, shows):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert bool(watch(monkeypatch, pieces(3, pause=0.15), 3000, "houses.csv")) == shows


AT_ONCE = """
import linreg_pl.callbacks.progress, linreg_pl.tables.progress
from linreg_pl.__main__ import main
linreg_pl.tables.progress.DELAY = linreg_pl.callbacks.progress.DELAY = linreg_pl.callbacks.progress.INTERVAL = 0.0
main()
"""


def test_a_fit_counts_the_rows_of_its_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = ("fit", "--model", "Scratch", "--data", "Synthetic", "--trainer.max_epochs", "20")
    shown = on_a_terminal(sys.executable, "-c", AT_ONCE, *fit, PYTHONPATH=str(REPOSITORY))
    assert "fit: " in shown
    assert "/20.0k" in shown


def test_a_short_fit_leaves_a_terminal_clean(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", "--model", "Exact", "--data", "Synthetic"]
    subprocess.run(command, cwd=tmp_path, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    with pytest.raises(OSError, match="Input/output error"):  # what reading gives when nothing was written
        os.read(ours, 1)
    os.close(ours)
