"""The command line on a terminal: colours, --quiet, completion."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest

from tests.support.commands import REPOSITORY

TRAIN = str(REPOSITORY / "train.py")


def on_a_terminal(*command, **environment):
    """Return what a command shows on a terminal, stdout and stderr together."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=clean | environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the end, on Linux
            part = b""
        if not part:
            break
        shown += part
    process.wait()
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_titles_are_dim_on_a_terminal_and_errors_red(scratch_fit):
    command = (sys.executable, TRAIN, "report")
    shown = on_a_terminal(*command, str(scratch_fit.run))
    titles = re.findall(r"\x1b\[2m(.*?)\x1b\[0m", shown)
    assert [title.split() for title in titles] == [
        ["estimate", "optimum", "distance", "standard", "error", "true", "error"],
        ["loss", "mse", "rmse", "r2"],
    ]
    assert on_a_terminal(*command, "nowhere").startswith("\x1b[31merror:\x1b[0m nowhere: holds no report.json")
    plain = on_a_terminal(*command, str(scratch_fit.run), NO_COLOR="1")
    assert plain == re.sub(r"\x1b\[\d+m", "", shown)
    piped = subprocess.run([*command, str(scratch_fit.run)], capture_output=True, text=True, check=True).stdout
    assert piped == plain


def test_quiet_prints_errors_alone(linreg, scratch_fit):
    assert linreg("report", scratch_fit.run, "--quiet").succeeded().stdout == ""
    assert linreg("fit", "--quiet", "--model", "Exact", "--data", "Synthetic").succeeded().stdout == ""
    refused = linreg("report", "nowhere", "--quiet")
    assert (refused.status, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: nowhere: holds no report.json")


COMPLETE = """
source "$1"; shift
COMP_WORDS=(linreg "$@"); COMP_CWORD=$#
_shtab_linreg linreg "${@: -1}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["rep"], {"report"}),
        (["fit", "--trainer.max_e"], {"--trainer.max_epochs"}),
        (["fit", "--data.batch"], {"--data.batch_size"}),
        (["fit", "--model.weight_d"], {"--model.weight_decay"}),
    ],
)
def test_bash_completes_commands_and_flags(script, typed, offered):
    bash = shutil.which("bash")
    shown = subprocess.run([bash, "-c", COMPLETE, "bash", script, *typed], capture_output=True, text=True, check=True)
    assert offered <= set(shown.stdout.split())


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A file with what `linreg completion bash` prints."""
    path = tmp_path_factory.mktemp("completion") / "linreg"
    with path.open("w") as file:
        subprocess.run([sys.executable, TRAIN, "completion", "bash"], stdout=file, check=True)
    return path


def test_unknown_shell_is_refused(linreg):
    outcome = linreg("completion", "fishbone")
    assert (outcome.status, outcome.stderr) == (
        1,
        "error: completion needs the name of a shell: linreg completion bash|zsh|tcsh\n",
    )


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("WORLD_SIZE", "x", "WORLD_SIZE=x: must be a whole number, as torchrun sets it; unset WORLD_SIZE"),
        ("TORCHELASTIC_RESTART_COUNT", "", "TORCHELASTIC_RESTART_COUNT=: must be a whole number, as torchrun sets…"),
        (
            "LINREG_FIT__MODEL__LR",
            "1",
            "LINREG_FIT__MODEL__LR: flags are not read from the environment; type --model.lr",
        ),
    ],
)
def test_variables_that_cannot_be_used_are_refused(linreg, monkeypatch, variable, value, sentence):
    monkeypatch.setenv(variable, value)
    outcome = linreg("fit", "--model", "Exact", "--data", "Synthetic")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"error: {sentence.rstrip('…')}")
    assert linreg("--help").status == 0


def test_scipy_signal_waits_until_it_is_wanted():
    code = "import sys; from linreg_pl.__main__ import _import_without_gc as load; load('linreg_pl.cli.app')"
    code += "; print('scipy.signal' in sys.modules); import scipy.signal; print(scipy.signal.convolve([1], [2]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n[2]\n"


def test_stdout_may_be_closed_or_end_early(scratch_fit, tmp_path):
    def shell(line):
        command = line.format(f"{sys.executable} {TRAIN}", run=scratch_fit.run)
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    closed = shell("{} fit --model Exact --data Synthetic >&-")
    assert (closed.returncode, closed.stderr) == (0, "")
    assert len(list(tmp_path.glob("runs/exact/version_0/report.json"))) == 1
    for command in ("report {run}", "--help"):
        early = shell(f"{{}} {command} | true; echo ${{{{PIPESTATUS[0]}}}}")
        assert (early.stdout, early.stderr) == ("141\n", "")
    full = shell("{} report {run} > /dev/full")
    assert full.returncode == 1
    assert full.stderr.startswith("error: a file cannot be read or written: No space left on device")


def test_too_little_address_space_is_refused(tmp_path):
    command = f"ulimit -c 0; ulimit -v 450000; {sys.executable} {TRAIN} fit --model Exact --data Synthetic"
    outcome = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr == "error: ulimit -v 450000: is not enough memory for torch; allow 2000000 or more\n"
