"""The command line's entry: what needs no torch is answered before torch is imported."""

import os
import sys
from pathlib import Path

from linreg_pl import report
from linreg_pl.errors import InputError

HELP = """\
Linear regression as a PyTorch Lightning project.

  fit       python train.py fit --config configs/scratch.yaml
            configs: scratch, concise (SGD), exact (the optimum in one pass), table (your own data)
            python train.py fit --config configs/table.yaml --data.path houses.csv --data.target price
  validate  python train.py validate --config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt
  test      as validate, on the test rows
  predict   as validate, writes RUN/predictions.parquet
  report    python train.py report RUN
  export    python train.py export RUN --format json   (or onnx, pt2, sklearn)
  shuffle   python train.py shuffle houses.csv shuffled.parquet   (any table, into Parquet in random order)

RUN is the folder that fit names at its end, runs/NAME/version_N. All flags: python train.py fit --help
"""


def main() -> None:
    """Run the command in ``sys.argv``."""
    arguments = sys.argv[1:]
    try:
        if arguments in ([], ["-h"], ["--help"]):
            print(HELP, end="")
        elif arguments[:1] == ["report"]:
            show_report(arguments[1:])
        elif arguments[:1] == ["shuffle"]:
            from linreg_pl.shuffle import command

            command(arguments[1:])
        elif arguments[:1] == ["export"]:
            from linreg_pl.export import command

            command(arguments[1:])
        else:
            from linreg_pl.cli import run

            run()
    except InputError as error:
        if os.environ.get("LINREG_DEBUG") == "1":
            raise
        # All processes of a run see the same input, and one voice is enough.
        sys.exit(f"error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)
    except BrokenPipeError:  # nobody reads on, as under `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def show_report(arguments: list[str]) -> None:
    """Print the report of a finished run again."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError("report wants the folder of one run: python train.py report runs/NAME/version_N")
    folder = Path(arguments[0])
    print(report.format_report(report.read(folder), folder))


if __name__ == "__main__":
    main()
