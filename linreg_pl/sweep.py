"""Many fits, one after another in one process: ``python train.py sweep``."""

import ast
import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from statistics import linear_regression, stdev
from typing import Any

from torch.cuda import device_count

from linreg_pl import cli, report
from linreg_pl.callbacks.signals import SIGNALS
from linreg_pl.comparison import Column, Comparison, Row, short
from linreg_pl.errors import InputError
from linreg_pl.files import csv_bytes, write_whole
from linreg_pl.parser import flat, read_config

USAGE = """\
python train.py sweep --config configs/scratch.yaml --model.lr 0.001,0.01,0.1 --seed 0..4

fits every combination, 15 here. It takes the flags of fit; a value may be a list (a,b,c) or a range (0..4), and commas
within brackets belong to the value. --seed is --data.seed and --seed_everything in one. The runs, a table (sweep.csv,
sweep.json) and a picture (sweep.png) lie in runs/NAME/sweep_N. Runs that are refused or diverge are noted, and the
others go on. A sweep that was stopped, by whatever means, goes on by the same command.

A config may have a section `sweep`, as those in configs/exercises/: `grid` (flags and their values), `x` and `y` (what
is drawn), `question`, `theory` (formulas for more columns of the table), `slope_from`, `answer` (a text with numbers).
"""
PLAN = ("grid", "x", "y", "question", "theory", "slope_from", "answer")
ARITHMETIC = (ast.Expression, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Constant, ast.Name, ast.Load)
FORMULA = (*ARITHMETIC, ast.Compare, ast.cmpop, ast.IfExp, ast.Call)
Flags = dict[str, str]
Record = dict[str, Any]  # sweep.json


def command(arguments: list[str]) -> None:
    """Run ``train.py sweep ARGUMENTS``.

    Raises:
        InputError: an argument is wrong, or no run ended well.
    """
    if arguments in ([], ["-h"], ["--help"]):
        print(USAGE, end="")
        return
    if "LOCAL_RANK" in os.environ:
        raise InputError("sweep starts the processes of each run itself: leave torchrun out, set --trainer.devices")
    configs, given = _read(arguments)
    plan = _plan(configs)
    grid = {flag: values(str(text)) for flag, text in {**plan.get("grid", {}), **given}.items()}
    points = [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]
    if len(points) < 2:
        raise InputError("sweep wants a flag with several values, e.g. --model.lr 0.01,0.1 or --seed 0..4")
    seen: set[tuple[str, str]] = set()
    settings = []
    for flags in points:
        if not flags.items() <= seen:  # a wrong flag or value is refused before the first run
            settings.append(_settings(configs, flags))
            seen |= flags.items()
    name = Path(configs[0]).stem if configs else settings[0]["model"]["class_path"].rsplit(".", 1)[-1]
    root = Path(settings[0]["trainer"]["default_root_dir"] or "", "runs", name.lower())
    with contextlib.ExitStack() as locks:
        trainer = settings[0]["trainer"]
        several = trainer["strategy"] != "auto" or trainer["devices"] not in ("auto", 1) or device_count() > 1
        folder, record = _begin(root, {"settings": settings[0], "grid": grid}, locks)
        for number, flags in enumerate(points, start=1):
            if flags not in [run["flags"] for run in record["runs"]]:
                run = {"flags": flags, **_fit(configs, flags, folder, several)}
                record["runs"].append(run)
                _write(record, folder)
                how = "refused" if run["refused"] else run["folder"]
                print(f"{number}/{len(points)}  {_say(flags)}  {how}", flush=True)
        _conclude(record, plan, folder)


def _read(arguments: list[str]) -> tuple[list[str], Flags]:
    """The configs, and the text of each other flag."""
    configs, flags = [], {}
    words = iter(arguments)
    for word in words:
        flag, equals, text = word.partition("=")
        text = text if equals else next(words, "")
        if not flag.startswith("-") or not text:
            raise InputError(f"{word}: sweep wants flags with values, as fit does; see python train.py sweep --help")
        name = flag.lstrip("-")
        if name in ("c", "config"):
            configs.append(text)
        elif name in ("ckpt_path", "resume", "sweep") or name.startswith("trainer.logger"):
            raise InputError(f"{flag}: sweep starts and writes the runs itself; leave the flag out")
        else:
            flags[name] = text
    return configs, flags


def _plan(configs: list[str]) -> dict[str, Any]:
    """The section ``sweep`` of the configs."""
    plan: dict[str, Any] = {}
    for config in configs:
        section = read_config(config).get("sweep") or {}
        if not isinstance(section, dict) or not section.keys() <= set(PLAN):
            raise InputError(f"{config}: sweep: must hold some of {', '.join(PLAN)}")
        plan |= section
    return plan


def values(text: str) -> list[str]:
    """The values that a flag is to take.

    Example:
        >>> values("0.1,1..3,[2, -3.4]")
        ['0.1', '1', '2', '3', '[2, -3.4]']
    """
    found: list[str] = []
    for part in re.split(r",(?![^\[{]*[\]}])", text):
        between = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part.strip())
        found += [part.strip()] if between is None else map(str, range(int(between[1]), int(between[2]) + 1))
    return list(dict.fromkeys(found))


def _say(flags: Flags) -> str:
    return "  ".join(f"{short(flag)} {text}" for flag, text in flags.items())


@contextlib.contextmanager
def _as_fit(configs: list[str], flags: Flags, **logger: object) -> Iterator[None]:
    """Let others find the command line of one fit, and undo what they do to the process."""
    before, environment = sys.argv, dict(os.environ)
    handlers = [(number, signal.getsignal(number)) for number in SIGNALS]
    words = [word for config in configs for word in ("--config", config)]
    for flag, text in flags.items():
        for name in ("data.seed", "seed_everything") if flag == "seed" else (flag,):
            words += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    words += [f"--trainer.logger.{name}={value}".replace(".class_path", "") for name, value in logger.items()]
    sys.argv = [before[0], "fit", "--figures=false", *words, "--sweep=null"]  # pictures of each run, unless asked for
    try:
        yield
    finally:
        sys.argv = before
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers:
            signal.signal(number, handler)


def _settings(configs: list[str], flags: Flags) -> dict[str, Any]:
    """All that a fit is told."""
    with _as_fit(configs, flags):
        settings = cli.run(cli.Settings).settings.as_dict() | {"config": configs}
    return json.loads(json.dumps(settings, default=str))  # type: ignore[no-any-return]


def _begin(root: Path, wanted: Record, locks: contextlib.ExitStack) -> tuple[Path, Record]:
    """Find the folder of the same sweep, if it was stopped and no process is at it, or make a new one."""
    for folder in sorted(root.glob("sweep_*")):
        with contextlib.suppress(OSError, ValueError):  # stopped before it was written, or not ours
            record = json.loads((folder / "sweep.json").read_bytes())
            if not record["finished"] and {key: record[key] for key in wanted} == wanted and _lock(folder, locks):
                for run in set(folder.glob("version_*")) - {folder / (run["folder"] or "") for run in record["runs"]}:
                    shutil.rmtree(run)  # it was stopped within
                print(f"going on in {folder}, where {len(record['runs'])} runs are done\n", flush=True)
                return folder, record
    for number in count():
        folder = root / f"sweep_{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    _lock(folder, locks)
    record = wanted | {"finished": False, "runs": []}
    _write(record, folder)
    return folder, record


def _lock(folder: Path, locks: contextlib.ExitStack) -> bool:
    """Keep other processes out as long as this one lives; tell whether it was the first."""
    try:
        import fcntl

        locks.callback(os.close, descriptor := os.open(folder, os.O_RDONLY))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows and some file systems: do not start the same sweep twice at once
        return True
    return True


def _write(record: Record, folder: Path) -> None:
    write_whole(folder / "sweep.json", json.dumps(record, indent=1, ensure_ascii=False).encode())


def _fit(configs: list[str], flags: Flags, folder: Path, by_itself: bool) -> dict[str, Any]:
    """Do one run: its folder, its results, and why there are none."""
    before, refused, result = set(folder.glob("version_*")), "", {}
    logger = {"class_path": "linreg_pl.logger.RunLogger", "save_dir": folder.parent, "name": folder.name}
    try:
        with _as_fit(configs, flags, **logger), contextlib.redirect_stdout(io.StringIO()):  # `report` prints it again
            _run_alone() if by_itself else cli.run()
        result = _result(report.read(*(set(folder.glob("version_*")) - before)))
    except SystemExit as end:
        if end.code != 2:
            print(f"stopped; the same command goes on in {folder}", flush=True)
            raise
        refused = "these flags do not go together"
    except InputError as error:
        refused = str(error)
    except Exception as error:  # whatever it is, the other runs can do without this one
        if os.environ.get("LINREG_DEBUG") == "1":
            raise
        refused = f"{type(error).__name__}: {error}"
    made = set(folder.glob("version_*")) - before
    return {"folder": made.pop().name if made else None, "refused": refused, "result": result}


def _run_alone() -> None:
    """Run the command line in a process of its own, for one that is among several ends when it is refused."""
    script = ["-m", "linreg_pl"] if sys.modules["__main__"].__spec__ else [sys.argv[0]]
    done = subprocess.run([sys.executable, *script, *sys.argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode in (130, 143):
        sys.exit(done.returncode)
    if done.returncode:
        said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise InputError(said[0] if said else f"ended with status {done.returncode}")


def _result(found: report.Report) -> Row:
    """A report's numbers under the names they have in TensorBoard, and the lengths of vectors."""
    result: Row = {key: found[key] for key in ("steps", "epochs", "seconds", "noise_floor") if key in found}
    for part in ("train", "val"):
        result |= {f"{part}/{name}": value for name, value in found.get(part, {}).items()}
    coefficients = found["coefficients"]
    names = [row["name"] for row in coefficients]
    result |= {
        row["name"] if row["name"] == "bias" else f"weight/{row['name']}": row["estimate"] for row in coefficients
    }
    vectors = {kind: [row.get(kind) for row in coefficients] for kind in ("distance", "error")}
    vectors["gradient"] = [value for vector in found.get("gradients", {}).values() for value in vector]
    for kind, vector in vectors.items():
        if vector and None not in vector:
            result |= {f"{kind}/{name}": value for name, value in zip(names, vector, strict=True)}
            result[kind] = math.hypot(*vector)
    return result


def _conclude(record: Record, plan: dict[str, Any], folder: Path) -> None:
    """Print and write table, picture and answer."""
    ended = [run for run in record["runs"] if not run["refused"]]
    if not ended:
        _write(record | {"finished": True}, folder)
        raise InputError(f"no run ended well; the first: {record['runs'][0]['refused']}")
    known = {flag: value for flag, value in flat(record["settings"]) if not isinstance(value, dict)}
    rows = [known | {flag: _value(text) for flag, text in run["flags"].items()} | run["result"] for run in ended]
    formulas = plan.get("theory", {})
    try:
        for row, run in zip(rows, ended, strict=True):
            for name, formula in formulas.items():
                row[name] = run["result"][name] = evaluate(formula, row)
        swept = [flag for flag, many in record["grid"].items() if len(many) > 1]
        comparison = Comparison(rows, swept, plan.get("x"), plan.get("y", ()))
    except (ArithmeticError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"section sweep: does not fit the runs of {folder}: {error}") from error
    try:
        columns = {name: Column(rows, name) for name in {name for row in rows for name in row}}
        slope = _slope(rows, comparison, plan["slope_from"]) if "slope_from" in plan else {}
        answer = str(plan.get("answer", "")).format_map(columns | slope)
    except (
        ArithmeticError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # other flags than those of the config, as a rule
        answer = f"the answer of the config does not fit these runs: {error}"
    refused = defaultdict(list)
    for run in record["runs"]:
        refused[run["refused"]].append(_say(run["flags"]))
    reasons = [f"refused  {'; '.join(those)}: {why}" for why, those in refused.items() if why]
    text = "\n\n".join(filter(None, [plan.get("question"), comparison.table(), "\n".join(reasons), answer.strip()]))
    write_whole(folder / "sweep.png", comparison.picture(plan.get("question", ""), answer))
    lines = [run["flags"] | {"run": run["folder"], "refused": run["refused"]} | run["result"] for run in record["runs"]]
    write_whole(folder / "sweep.csv", csv_bytes(lines))
    write_whole(folder / "answer.txt", f"{text}\n".encode())
    _write(record | {"finished": True}, folder)
    print(f"\n{text}\n\nthis sweep  {folder}\nlook        tensorboard --logdir {folder}", flush=True)


def evaluate(formula: object, row: Row) -> Any:
    """Value of a formula of numbers, columns and functions of `math`; a config can smuggle in nothing else.

    Example:
        >>> evaluate("noise_std / sqrt(num_train) if error_bias > 0 else 0",
        ...          {"data.noise_std": 1, "data.num_train": 4, "error/bias": 0.1})
        0.5
    """
    tree = ast.parse(str(formula), mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, FORMULA):
            raise ValueError(f"{formula}: no place for {type(node).__name__}")
    names = {name: value for name, value in vars(math).items() if not name.startswith("_")}
    names |= {short(name).replace("/", "_"): value for name, value in row.items()}
    return eval(compile(tree, "formula", "eval"), {"__builtins__": {}}, names)


def _slope(rows: list[Row], comparison: Comparison, least: float) -> dict[str, float]:
    """Slope of log y against log x, from some x on, and its standard error."""
    x, y = comparison.x, comparison.y[0]
    points = [(math.log(row[x]), math.log(row[y])) for row in rows if row[x] >= least]
    fit = linear_regression(*zip(*points, strict=True))
    residual = math.hypot(*(v - fit.intercept - fit.slope * u for u, v in points))
    spread = stdev(u for u, _ in points) * math.sqrt(len(points) - 1)
    return {"slope": fit.slope, "slope_error": residual / math.sqrt(len(points) - 2) / spread}


def _value(text: str) -> int | float | str:
    """The number that a text stands for, else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
