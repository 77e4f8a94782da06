"""Many fits, one after another in one process: ``python train.py sweep``."""

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
from typing import Any

from torch.cuda import device_count

from linreg_pl.cli import app as cli
from linreg_pl.cli.parser import flat, read_config
from linreg_pl.errors import InputError, as_run
from linreg_pl.files import atomic_write, csv_bytes
from linreg_pl.runs import report
from linreg_pl.runs.columns import COLUMNS
from linreg_pl.runs.comparison import Column, Comparison, Row, evaluate, short_name
from linreg_pl.system import STOP_SIGNALS, STOPPED, lock

USAGE = """\
python train.py sweep --config configs/scratch.yaml --model.lr 0.001,0.01,0.1 --seed 0..4

fits every combination, 15 here. It takes the flags of fit; a value may be a list (a,b,c) or a range (0..4), and commas
within brackets belong to the value. --seed sets both --data.seed and --seed_everything. The runs, a table (sweep.csv,
sweep.json) and a picture (sweep.png) are written to runs/NAME/sweep_N. Runs that are refused or diverge are noted, and
the others go on. To continue a sweep that was stopped or killed, run the same command again.

A config may have a section `sweep`, as those in configs/exercises/: `grid` (flags and their values), `x` and `y` (what
is drawn), `question`, `theory` (formulas for more columns of the table), `slope_from`, `answer` (a text with numbers).
"""
PLAN = ("grid", "x", "y", "question", "theory", "slope_from", "answer")
Flags = dict[str, str]
Record = dict[str, Any]  # sweep.json


def command(arguments: list[str]) -> None:
    """Run ``python train.py sweep`` with these arguments."""
    if arguments in ([], ["-h"], ["--help"]):
        print(as_run(USAGE), end="")
        return
    if "LOCAL_RANK" in os.environ:
        raise InputError("sweep starts the processes of each run itself: leave torchrun out, set --trainer.devices")
    configs, given = _parse(arguments)
    plan = _read_plan(configs)
    grid = {flag: values(str(text)) for flag, text in {**plan.get("grid", {}), **given}.items()}
    points = [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]
    if len(points) < 2:
        raise InputError("sweep needs a flag with several values, e.g. --model.lr 0.01,0.1 or --seed 0..4")
    seen: set[tuple[str, str]] = set()
    settings = []
    for flags in points:
        if not flags.items() <= seen:  # a wrong flag or value is refused before the first run
            settings.append(_settings(configs, flags))
            seen |= flags.items()
    name = Path(configs[0]).stem if configs else settings[0]["model"]["class_path"].rsplit(".", 1)[-1]
    trainer = settings[0]["trainer"]
    root = Path(trainer["default_root_dir"] or "", "runs", name.lower())
    several_processes = trainer["strategy"] != "auto" or trainer["devices"] not in ("auto", 1) or device_count() > 1
    with contextlib.ExitStack() as locks:
        folder, record = _open(root, {"settings": settings[0], "grid": grid}, locks)
        for number, flags in enumerate(points, start=1):
            if flags not in [run["flags"] for run in record["runs"]]:
                run = {"flags": flags, **_fit(configs, flags, folder, several_processes)}
                record["runs"].append(run)
                _write(record, folder)
                outcome = "refused" if run["refused"] else run["folder"]
                print(f"{number}/{len(points)}  {_describe(flags)}  {outcome}", flush=True)
        _conclude(record, plan, folder)


def _parse(arguments: list[str]) -> tuple[list[str], Flags]:
    """Split the arguments into the configs and the texts of the other flags."""
    configs, flags = [], {}
    words = iter(arguments)
    for word in words:
        flag, equals, text = word.partition("=")
        text = text if equals else next(words, "")
        if not flag.startswith("-") or not text:
            raise InputError(f"{word}: sweep takes flags with values, as fit does; see python train.py sweep --help")
        name = flag.lstrip("-")
        if name in ("c", "config"):
            configs.append(text)
        elif name in ("ckpt_path", "resume", "sweep") or name.startswith("trainer.logger"):
            raise InputError(f"{flag}: sweep starts and writes the runs itself; leave the flag out")
        else:
            flags[name] = text
    return configs, flags


def _read_plan(configs: list[str]) -> dict[str, Any]:
    """Read the section ``sweep`` of the configs."""
    plan: dict[str, Any] = {}
    for config in configs:
        section = read_config(config).get("sweep") or {}
        if not isinstance(section, dict) or not section.keys() <= set(PLAN):
            raise InputError(f"{config}: sweep: may hold only the keys {', '.join(PLAN)}")
        plan |= section
    return plan


def values(text: str) -> list[str]:
    """Split a flag's text into the values that the flag takes in turn.

    Example:
        >>> values("0.1,1..3,[2, -3.4]")
        ['0.1', '1', '2', '3', '[2, -3.4]']
    """
    found: list[str] = []
    for part in re.split(r",(?![^\[{]*[\]}])", text):
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", part.strip())
        found += [part.strip()] if ends is None else map(str, range(int(ends[1]), int(ends[2]) + 1))
    return list(dict.fromkeys(found))


def _describe(flags: Flags) -> str:
    return "  ".join(f"{short_name(flag)} {text}" for flag, text in flags.items())


@contextlib.contextmanager
def _arguments_of_fit(configs: list[str], flags: Flags, **logger: object) -> Iterator[None]:
    """Temporarily set `sys.argv` to the arguments of one fit; afterwards restore environment and signal handlers."""
    before, environment = sys.argv, dict(os.environ)
    handlers = [(number, signal.getsignal(number)) for number in STOP_SIGNALS]
    words = [word for config in configs for word in ("--config", config)]
    for flag, text in flags.items():
        for name in ("data.seed", "seed_everything") if flag == "seed" else (flag,):
            words += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    words += [f"--trainer.logger.{name}={value}".replace(".class_path", "") for name, value in logger.items()]
    sys.argv = [before[0], "fit", "--figures=false", *words, "--sweep=null"]  # unless asked for
    try:
        yield
    finally:
        sys.argv = before
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers:
            signal.signal(number, handler)


def _settings(configs: list[str], flags: Flags) -> dict[str, Any]:
    """Parse all settings of one fit."""
    with _arguments_of_fit(configs, flags):
        settings = cli.run(cli.Settings).settings.as_dict() | {"config": configs}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _open(root: Path, wanted: Record, locks: contextlib.ExitStack) -> tuple[Path, Record]:
    """Find the folder of the same sweep if it was stopped and no other process continues it, else make a new one."""
    for folder in sorted(root.glob("sweep_*")):
        with contextlib.suppress(OSError, ValueError):  # killed before sweep.json was written, or another program's
            record = json.loads((folder / "sweep.json").read_bytes())
            if not record["finished"] and {key: record[key] for key in wanted} == wanted and lock(folder, locks):
                for run in set(folder.glob("version_*")) - {folder / (run["folder"] or "") for run in record["runs"]}:
                    shutil.rmtree(run)  # not finished
                print(f"continuing {folder}: {len(record['runs'])} runs are done\n", flush=True)
                return folder, record
    for number in count():
        folder = root / f"sweep_{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    lock(folder, locks)
    record = wanted | {"finished": False, "runs": []}
    _write(record, folder)
    return folder, record


def _write(record: Record, folder: Path) -> None:
    atomic_write(folder / "sweep.json", json.dumps(record, indent=1, ensure_ascii=False).encode())


def _fit(configs: list[str], flags: Flags, folder: Path, in_subprocess: bool) -> dict[str, Any]:
    """Run one fit: return its folder, its results and, if there are none, why it was refused."""
    before, refused, result = set(folder.glob("version_*")), "", {}
    logger = {"class_path": "linreg_pl.runs.logger.RunLogger", "save_dir": folder.parent, "name": folder.name}
    try:
        with _arguments_of_fit(configs, flags, **logger), contextlib.redirect_stdout(io.StringIO()):
            _run_in_subprocess() if in_subprocess else cli.run()
        result = _results(report.read(*(set(folder.glob("version_*")) - before)))
    except SystemExit:
        print(f"stopped; to continue {folder}, run the same command again", flush=True)
        raise
    except InputError as error:
        refused = str(error)
    except Exception as error:  # of any kind: the other runs do not depend on this one
        if os.environ.get("LINREG_DEBUG") == "1":
            raise
        refused = f"{type(error).__name__}: {error}"
    made = set(folder.glob("version_*")) - before
    return {"folder": made.pop().name if made else None, "refused": refused, "result": result}


def _run_in_subprocess() -> None:
    """Run one fit in a process of its own, because a fit on several processes ends them when it is refused."""
    script = ["-m", "linreg_pl"] if sys.modules["__main__"].__spec__ else [sys.argv[0]]
    done = subprocess.run(
        [sys.executable, *script, *sys.argv[1:]], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode in STOPPED:
        sys.exit(done.returncode)
    if done.returncode:
        errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise InputError(errors[0] if errors else f"ended with status {done.returncode}")


def _results(found: report.Report) -> Row:
    """A report's numbers by their names in TensorBoard, and the lengths of vectors over the coefficients."""
    told = ("steps", "epochs", "seconds", "noise_floor", "penalty", "columns_left", "effective_dof")
    result: Row = {key: found[key] for key in told if key in found}
    if "cv" in found:
        result |= {"cv/mse": min(found["cv"]["mse"]), "fits": found["cv"]["folds"] * len(found["cv"]["mse"])}
    for part in ("train", "val"):
        result |= {f"{part}/{name}": value for name, value in found.get(part, {}).items()}
    rows = found["coefficients"]
    names = [row["name"] for row in rows]
    result |= {row["name"] if row["name"] == "bias" else f"weight/{row['name']}": row["estimate"] for row in rows}
    vectors = {column.name: [row.get(column.name) for row in rows] for column in COLUMNS if column.in_sweep}
    lengths = {"gradient", *(column.name for column in COLUMNS if column.in_sweep == "length")}
    vectors["gradient"] = [value for vector in found.get("gradients", {}).values() for value in vector]
    for key, vector in vectors.items():
        if vector and None not in vector:
            result |= {f"{key}/{name}": value for name, value in zip(names, vector, strict=True)}
            if key in lengths:
                result[key] = math.hypot(*vector)
    return result


def _conclude(record: Record, plan: dict[str, Any], folder: Path) -> None:
    """Write and print the table, the picture and the answer of a finished sweep."""
    if all(run["refused"] for run in record["runs"]):
        _write(record | {"finished": True}, folder)
        raise InputError(f"no run succeeded; the first: {record['runs'][0]['refused']}")
    comparison = _compare(record, plan, folder)
    answer = _answer(comparison, plan)
    refused = defaultdict(list)
    for run in record["runs"]:
        refused[run["refused"]].append(_describe(run["flags"]))
    reasons = [f"refused  {'; '.join(those)}: {why}" for why, those in refused.items() if why]
    text = "\n\n".join(filter(None, [plan.get("question"), comparison.table(), "\n".join(reasons), answer]))
    atomic_write(folder / "sweep.png", comparison.picture(plan.get("question", ""), answer))
    lines = [run["flags"] | {"run": run["folder"], "refused": run["refused"]} | run["result"] for run in record["runs"]]
    atomic_write(folder / "sweep.csv", csv_bytes(lines))
    atomic_write(folder / "answer.txt", f"{text}\n".encode())
    _write(record | {"finished": True}, folder)
    print(f"\n{text}\n\nthis sweep  {folder}\nlook        tensorboard --logdir {folder}", flush=True)


def _compare(record: Record, plan: dict[str, Any], folder: Path) -> Comparison:
    """Put the runs that succeeded side by side; add the values of the plan's formulas to their results."""
    common = {flag: value for flag, value in flat(record["settings"]) if not isinstance(value, dict)}
    rows = []
    try:
        for run in record["runs"]:
            if not run["refused"]:
                row = common | {flag: _number_or_text(text) for flag, text in run["flags"].items()} | run["result"]
                for name, formula in plan.get("theory", {}).items():
                    row[name] = run["result"][name] = evaluate(formula, row)
                rows.append(row)
        swept = [flag for flag, several in record["grid"].items() if len(several) > 1]
        return Comparison(rows, swept, plan.get("x"), plan.get("y", ()))
    except (ArithmeticError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"section sweep: does not fit the runs of {folder}: {error}") from error


def _answer(comparison: Comparison, plan: dict[str, Any]) -> str:
    """Fill the numbers into the config's answer; flags other than those of the config can make that impossible."""
    try:
        numbers: dict[str, Any] = {name: Column(comparison.rows, name) for row in comparison.rows for name in row}
        if "slope_from" in plan:
            numbers |= comparison.slope(plan["slope_from"])
        return str(plan.get("answer", "")).format_map(numbers).strip()
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        return f"the answer of the config does not fit these runs: {error}"


def _number_or_text(text: str) -> int | float | str:
    """The number that a flag's text stands for, else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
