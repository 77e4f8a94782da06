"""Entry point of the command line; commands that need no torch run without importing it."""

import gc
import io
import os
import signal
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from linreg_pl.errors import RED, InputError, describe_error, nearest, printable, styled
from linreg_pl.runs import report

MODULES = {name: f"linreg_pl.cli.{name}" for name in ("sweep", "compare", "wald", "refit", "export", "shuffle")}
COMMANDS = ("fit", "validate", "test", "predict", "report", *MODULES, "completion")
SHELLS = ("bash", "zsh", "tcsh")
HELP = """\
Linear regression as a PyTorch Lightning project.

  fit       python train.py fit --config configs/scratch.yaml
            configs: scratch, concise (SGD), exact (the optimum in one pass), table (your own data)
            python train.py fit --config configs/table.yaml --data.path houses.csv --data.target price
  validate  python train.py validate --config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt
  test      like validate, on the test rows
  predict   like validate, writes RUN/predictions.parquet
  sweep     python train.py sweep --config configs/scratch.yaml --model.lr 0.001,0.01,0.1 --seed 0..4
            python train.py sweep --config configs/exercises/lr.yaml   (the exercises of the book)
  report    python train.py report RUN
  compare   python train.py compare RUN RUN --format latex   (or text, markdown, html, csv)
  wald      python train.py wald RUN 'rooms = 2 * age, {city=Rome} = 0'   (a joint test of coefficients)
  refit     python train.py refit RUN --model.penalty 0.1   (from the checkpoint, without the table)
  export    python train.py export RUN --format json   (or onnx, pt2, sklearn)
  shuffle   python train.py shuffle houses.csv shuffled.parquet   (any table, into Parquet in random order)
  completion   linreg completion bash > ~/.local/share/bash-completion/completions/linreg
            tab completion of commands and flags of linreg, the short name of train.py

RUN is the folder that fit names at its end, runs/NAME/version_N. All flags: python train.py fit --help
With --quiet, any command prints errors only.
"""


def main() -> None:
    """Run the command in ``sys.argv``; on Ctrl-C and SIGTERM, remove temporary files and exit with 130 and 143."""
    stops = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(stop, lambda number, _: sys.exit(128 + number)) for stop in stops]
    try:
        if "--quiet" in sys.argv:
            sys.argv.remove("--quiet")
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                _run(sys.argv[1:])
        else:
            _run(sys.argv[1:])
    finally:
        for stop, handler in zip(stops, before, strict=True):
            signal.signal(stop, handler)


def _run(arguments: list[str]) -> None:
    try:
        if arguments in ([], ["-h"], ["--help"]):
            print(HELP, end="")
        elif arguments[0] == "report":
            show_report(arguments[1:])
        elif arguments[0] in MODULES:
            _import_without_gc(MODULES[arguments[0]]).command(arguments[1:])
        elif arguments[0] == "completion":
            show_completion(arguments[1:])
        elif arguments[0] in COMMANDS or arguments[0].startswith("-"):
            if os.environ.get("LINREG_DEBUG") != "1":
                os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # else torch adds pages to the sentence on a loss
            _import_without_gc("linreg_pl.cli.app").run()
        else:
            near = nearest(arguments[0], COMMANDS)
            hint = f"did you mean {near}?" if near else f"choose one of {', '.join(COMMANDS)}"
            raise InputError(f"{arguments[0]}: there is no such command; {hint}")
    except BrokenPipeError:  # the reader has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (InputError, OSError, MemoryError) as error:
        if os.environ.get("LINREG_DEBUG") == "1":
            raise
        sys.exit(f"{styled('error:', RED, sys.stderr)} {printable(describe_error(error))}")


def _import_without_gc(name: str) -> ModuleType:
    """Import a module that takes seconds, a third faster: imported objects are excluded from garbage collection."""
    if name not in sys.modules:
        before = gc.get_threshold()
        gc.set_threshold(20_000, 1_000_000)  # collect only the newest objects
        try:
            import_module(name)
        finally:
            gc.set_threshold(*before)
        gc.freeze()  # also for the rest of the process, up to its exit
    return sys.modules[name]


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
    folder = Path(arguments[0])
    content = report.read(folder)
    try:
        print(report.format_report(content, folder))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{folder}/report.json: is not a report of this program") from error


if __name__ == "__main__":
    main()
