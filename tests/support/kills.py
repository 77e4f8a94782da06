"""Kills fits with SIGKILL at random moments, lets them go on with ``--resume``, and compares them with one left alone.

One in five is stopped with SIGTERM instead, and not counted.

Fifty kills of each model, twenty of two processes (some ten minutes):

    python -m tests.support.kills
    python -m tests.support.kills --kills 12 --case scratch --seed 7

The processes are forked from one that has imported everything, so that a run takes a second and not five.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import linreg_pl.cli.app  # noqa: F401
from linreg_pl.__main__ import main as train
from linreg_pl.runs.checkpoints import newest, newest_run
from tests.support.commands import DDP, meeting

SMALL = "--data Synthetic --data.num_train 207 --data.num_val 30 --checkpoint.every_n_train_steps 5"
TABLE = (
    "--data Table --data.path {table} --data.target y --data.val_fraction 0.1 --checkpoint.train_time_interval 0:0:0"
)
CASES = {  # name: (processes, arguments of fit)
    "scratch": (1, f"--model Scratch {SMALL} --trainer.max_epochs 40"),
    "concise": (1, f"--model Concise {SMALL} --trainer.max_steps 800 --trainer.max_epochs=-1"),
    "fused": (1, f"--model Fused {SMALL} --trainer.max_epochs 40"),
    "exact": (1, f"--model Exact {TABLE}"),
    "streamed": (1, f"--model Fused {TABLE} --data.standardize true --data.memory 1 --trainer.max_epochs 8"),
    "processes": (2, f"--model Scratch {SMALL} --trainer.max_epochs 20"),
    "exact-processes": (2, f"--model Exact {TABLE}"),
}
GRACE = 20.0  # seconds from SIGTERM to SIGKILL
RESUME = "--trainer.logger linreg_pl.runs.logger.RunLogger --trainer.log_every_n_steps 7 --figures false --resume"
ROWS = 40_000


def start(folder: Path, processes: int, arguments: list[str]) -> list[int]:
    """Fork a fit; return the ids of its processes."""
    children = []
    for own in meeting(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        os.chdir(folder)
        log = os.open("log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= own
        if processes > 1:
            arguments = [*arguments, "--config", str(DDP)]
        sys.argv = ["train.py", "fit", *arguments]
        status = 1
        try:
            train()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if status == 1:
                print(end.code)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return children


def wait(children: list[int]) -> None:
    """Wait for the end of all, which must be a good one."""
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, f"ended with {status}"


def stop(children: list[int], seconds: float, number: signal.Signals) -> bool:
    """Send all a signal after a while, as a scheduler does; tell whether one was still running."""
    time.sleep(seconds)
    for child in children:
        os.kill(child, number)
    deadline, allowed = time.monotonic() + GRACE, {0, -number} | ({128 + number} if number != signal.SIGKILL else set())
    ends = []
    for child in children:
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.01)
            # Of several, torch may wait for one that has ended before they met.
            if len(children) > 1 and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                allowed.add(-signal.SIGKILL)
        ends.append(os.waitstatus_to_exitcode(ended[1]))
    assert set(ends) <= allowed, f"ended with {ends}, see the log"
    return any(ends)


def end(folder: Path) -> dict[str, object]:
    """What a run left: the weights' bits, the curves, the report."""
    run = newest_run(folder / "runs" / "run")
    assert run is not None
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    del report["seconds"]
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        "curves": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]},
        "report": report,
    }


def difference(found: Any, expected: Any) -> str:
    """Say where two nested values begin to differ."""
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        key = next(key for key in found if found[key] != expected[key])
        return f"{key} {difference(found[key], expected[key])}"
    if isinstance(found, list) and isinstance(expected, list):
        first = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), -2)
        return f"[{first}]: {found[first:][:3]} of {len(found)} instead of {expected[first:][:3]} of {len(expected)}"
    return f"{found} instead of {expected}"


def check(case: str, kills: int, seed: int, kills_in_a_run: int = 5) -> str:
    """Kill and compare; raise AssertionError at a difference."""
    generator = random.Random(f"{case} {seed}")
    processes, line = CASES[case]
    folder = Path(tempfile.mkdtemp(prefix="linreg-kills-"))
    table = folder / "table.parquet"
    write_table(table)
    arguments = f"{line} {RESUME}".format(table=table).split()
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    wait(start(whole, processes, arguments))
    seconds, expected = time.monotonic() - began, end(whole)
    done = went_on = 0
    while done < kills:
        cut = Path(tempfile.mkdtemp(dir=folder))
        for _ in range(min(kills_in_a_run, kills - done)):
            number = generator.choice([signal.SIGKILL] * 4 + [signal.SIGTERM])
            stopped = stop(start(cut, processes, arguments), generator.uniform(0.1, 1.0) * seconds, number)
            done += stopped and number == signal.SIGKILL
            seconds *= 1 if stopped else 0.8  # the machine has become faster
            run = newest_run(cut / "runs" / "run")
            went_on += run is not None and newest(run, tell=_fail) is not None
        wait(start(cut, processes, arguments))
        found = end(cut)
        for what, value in expected.items():
            assert found[what] == value, f"{case}, in {cut}: {what} {difference(found[what], value)}"
        shutil.rmtree(cut)
    shutil.rmtree(folder)
    return f"{case}: {done} kills of runs of {seconds:.1f} s, {went_on} of them with a checkpoint: all ends alike"


def _fail(message: str) -> None:
    raise AssertionError(message)


def write_table(path: Path) -> None:
    """Write a table of 4 columns, in small row groups."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    generator = np.random.default_rng(0)
    X = generator.normal(size=(ROWS, 4)).astype(np.float32)
    y = X @ np.arange(4, dtype=np.float32) + generator.normal(size=ROWS).astype(np.float32)
    columns = {f"x{p}": X[:, p] for p in range(4)} | {"y": y}
    parquet.write_table(pa.table(columns), path, row_group_size=1000)


def command() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, help="of each case (default: 50; 20 of two processes)")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for case in given.case or CASES:
        kills = given.kills or (50 if CASES[case][0] == 1 else 20)
        print(check(case, kills, given.seed), flush=True)


if __name__ == "__main__":
    command()
