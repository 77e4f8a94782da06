"""Entry point of the command line; commands that need no torch run without importing it."""

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from linreg_pl.errors import InputError, as_run, describe_error, error_line, lacks_memory, nearest
from linreg_pl.files import file_of_run, shipped
from linreg_pl.runs import report
from linreg_pl.system import STOP_SIGNALS, prepare_process

MODULES = {name: f"linreg_pl.cli.{name}" for name in ("sweep", "compare", "wald", "refit", "export", "shuffle")}
COMMANDS = ("fit", "validate", "test", "predict", "report", *MODULES, "completion")
NUMBERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"),
)
ADDRESS_SPACE = 1_600_000_000  # bytes; with less, torch aborts or spins on some machines
SHELLS = ("bash", "zsh", "tcsh")
HELP = """\
Linear regression as a PyTorch Lightning project.

  fit       python train.py fit --config configs/scratch.yaml
            configs: scratch, concise (SGD), exact (the optimum in one pass), table (your own data)
            python train.py fit --config configs/table.yaml --data.path houses.csv --data.target price
  validate  python train.py validate RUN   (or test, on the test rows)
  predict   python train.py predict RUN --data.path new.csv --predictions new.parquet
  sweep     python train.py sweep --config configs/scratch.yaml --model.lr 0.001,0.01,0.1 --seed 0..4
            python train.py sweep --config configs/exercises/lr.yaml   (the exercises of the book)
  report    python train.py report RUN
  compare   python train.py compare RUN RUN --format latex   (or text, markdown, html, csv)
  wald      python train.py wald RUN 'rooms = 2 * age, {city=Rome} = 0'   (a joint test of coefficients)
  refit     python train.py refit RUN --model.penalty 0.1   (from the checkpoint, without the table)
  export    python train.py export RUN --format json   (or onnx, pt2, sklearn)
  shuffle   python train.py shuffle houses.csv shuffled.parquet   (any table, into Parquet in random order)
  completion   linreg completion bash > ~/.local/share/bash-completion/completions/linreg
            tab completion of commands and flags of linreg

RUN is the folder that fit names at its end, runs/NAME/version_N. All flags: python train.py fit --help
--config takes a file, or the name of a shipped config: scratch, exercises/lr. --version prints versions.
With --quiet, any command prints errors only.
"""


def main() -> None:
    """Run the command in ``sys.argv``; on Ctrl-C and SIGTERM, remove temporary files and exit with 130 and 143."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # closed, as with `>&-`
    prepare_process()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        os.environ["LINREG_PARENT"] = str(os.getppid())  # torchrun; if it is killed, its processes end too
    with ExitStack() as until:
        for stop in STOP_SIGNALS:
            until.callback(signal.signal, stop, signal.signal(stop, lambda number, _: sys.exit(128 + number)))
        if "--quiet" in sys.argv:
            sys.argv.remove("--quiet")
            until.enter_context(redirect_stdout(until.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        _run(sys.argv[1:])


def _run(arguments: list[str]) -> None:
    sys.argv[1:] = arguments = _with_paths(arguments)
    try:
        if arguments in ([], ["-h"], ["--help"]):
            print(as_run(HELP), end="")
        elif arguments == ["--version"]:
            show_versions()
        elif arguments[0] == "report":
            show_report(arguments[1:])
        elif arguments[0] in MODULES:
            _import_without_gc(MODULES[arguments[0]]).command(arguments[1:])
        elif arguments[0] == "completion":
            show_completion(arguments[1:])
        elif arguments[0] in COMMANDS or arguments[0].startswith("-"):
            if os.environ.get("LINREG_DEBUG") != "1":
                os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # else torch adds pages to the sentence on a loss
            if arguments[0] in ("validate", "test", "predict") and arguments[1:] and arguments[1][:1] != "-":
                run = Path(arguments[1])
                config, checkpoint = file_of_run(run, "config.yaml"), file_of_run(run, "checkpoints/last.ckpt")
                sys.argv[2:3] = ["--config", str(config), "--ckpt_path", str(checkpoint)]
            _import_without_gc("linreg_pl.cli.app").run()
        else:
            near = nearest(arguments[0], COMMANDS)
            hint = f"did you mean {near}?" if near else f"choose one of {', '.join(COMMANDS)}"
            raise InputError(f"{arguments[0]}: there is no such command; {hint}")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("LINREG_DEBUG") == "1" or not (
            isinstance(error, InputError | OSError) or lacks_memory(error)
        ):
            raise
        sys.exit(error_line(describe_error(error)))


def _import_without_gc(name: str) -> ModuleType:
    """Import a module that takes seconds, a third faster: imported objects are excluded from garbage collection."""
    _check_environment()
    if name not in sys.modules:
        before = gc.get_threshold()
        gc.set_threshold(20_000, 1_000_000)  # collect only the newest objects
        try:
            with _scipy_signal_later():
                import_module(name)
        finally:
            gc.set_threshold(*before)
        gc.freeze()  # also for the rest of the process, up to its exit
    return sys.modules[name]


@contextmanager
def _scipy_signal_later() -> Iterator[None]:
    """Keep torchmetrics from importing scipy.signal, which takes a second, only to give a function a second name."""
    if "scipy.signal" in sys.modules:
        yield
        return
    stand_in = ModuleType("scipy.signal")
    stand_in.__dict__["hamming"] = None  # the name that torchmetrics looks for
    sys.modules[stand_in.__name__] = stand_in
    try:
        yield
    finally:
        del sys.modules[stand_in.__name__]  # whoever imports it now gets the real one


def _check_environment() -> None:
    """Refuse what torch and Lightning would fail at without a sentence, and flags in variables."""
    if find_spec("resource"):  # not on Windows
        import resource

        if 0 <= (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) < ADDRESS_SPACE:
            raise InputError(f"ulimit -v {limit // 1024}: is not enough memory for torch; allow 2000000 or more")
    for variable, value in os.environ.items():
        if variable in NUMBERS and not value.isdecimal():
            raise InputError(f"{variable}={value}: must be a whole number, as torchrun sets it; unset {variable}")
        command, flag = variable.lower().removeprefix("linreg_").split("__", 1) if "__" in variable else ("", "")
        if command in COMMANDS and variable.startswith("LINREG_"):
            raise InputError(f"{variable}: flags are not read from the environment; type --{flag.replace('__', '.')}")


def _with_paths(words: list[str]) -> list[str]:
    """Replace the names of shipped configs by their paths."""
    return [
        shipped(word)
        if before in ("--config", "-c")
        else f"--config={shipped(word[9:])}"
        if word.startswith("--config=")
        else word
        for before, word in pairwise(["", *words])
    ]


def show_versions() -> None:
    """Print the versions of this program and of what it is built on."""
    print(f"linreg_pl {sys.modules['linreg_pl'].__version__}, Python {sys.version.split()[0]}, {sys.platform}")
    for package in ("torch", "lightning", "torchmetrics", "jsonargparse", "numpy", "pyarrow", "numba"):
        with suppress(PackageNotFoundError):
            print(package, version(package))


def show_completion(arguments: list[str]) -> None:
    """Print the script that lets a shell complete commands and flags."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise InputError(f"completion needs the name of a shell: linreg completion {'|'.join(SHELLS)}")
    if not find_spec("shtab"):
        raise InputError('completion needs the package shtab: pip install "linreg_pl[completion]"')
    os.environ["JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT"] = "true"
    sys.argv = ["linreg", f"--print_completion=shtab-{arguments[0]}"]
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        _import_without_gc("linreg_pl.cli.app").run()
    print(text.getvalue().replace("_choices=(fit validate test predict)", f"_choices=({' '.join(COMMANDS)})"), end="")


def show_report(arguments: list[str]) -> None:
    """Print the report of a finished run again."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError("report needs the folder of one run: python train.py report runs/NAME/version_N")
    print(report.show(Path(arguments[0])))


if __name__ == "__main__":
    main()
