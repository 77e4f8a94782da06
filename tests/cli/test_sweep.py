"""Many fits by one command, which survives what may happen to it."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from linreg_pl.cli.sweep import values
from tests.support.commands import CONFIGS, REPOSITORY, SCRATCH, in_process

FUSED = CONFIGS / "fused.yaml"
SWEEP = ("--config", FUSED, "--model.lr", "0.01,0.1,9", "--seed", "0..1")


def record(folder):
    return json.loads((folder / "sweep.json").read_text())


def coefficients(path):
    """The coefficients of a run's report."""
    return json.loads((path / "report.json").read_text())["coefficients"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", ["0.1"]),
        ("0.001,0.01,1e-1", ["0.001", "0.01", "1e-1"]),
        ("0..4", ["0", "1", "2", "3", "4"]),
        ("-1..1,7", ["-1", "0", "1", "7"]),
        ("1, 2,2", ["1", "2"]),
        ("[2, -3.4]", ["[2, -3.4]"]),
        ("[2, -3.4],[1]", ["[2, -3.4]", "[1]"]),
        ("{a: 1, b: 2},x", ["{a: 1, b: 2}", "x"]),
        ("../data/houses.csv", ["../data/houses.csv"]),
        ("true,false", ["true", "false"]),
    ],
)
def test_values_of_a_flag(text, expected):
    assert values(text) == expected


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The sweep: look, but do not touch."""
    return in_process(tmp_path_factory.mktemp("sweep"), "sweep", *SWEEP).succeeded()


@pytest.fixture
def folder(swept):
    return swept.cwd / "runs/fused/sweep_0"


def test_table_has_every_combination(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.lr"], row["seed"]) for row in rows] == [(lr, s) for lr in ("0.01", "0.1", "9") for s in "01"]
    for row, run in zip(rows, record(folder)["runs"], strict=True):
        assert (row["run"], row["refused"]) == (run["folder"] or "", run["refused"])
        if not row["refused"]:
            report = json.loads((folder / row["run"] / "report.json").read_text())
            assert float(row["val/mse"]) == report["val"]["mse"]
            assert float(row["weight/x0"]) == report["coefficients"][0]["estimate"]


def test_refused_runs_are_noted_and_the_others_go_on(swept, folder):
    runs = record(folder)["runs"]
    assert [bool(run["refused"]) for run in runs] == [False] * 4 + [True] * 2
    assert runs[-1]["refused"].startswith("--model.lr 9: diverges on these data")
    assert "\nrefused  lr 9  seed 0: --model.lr 9: diverges" in swept.stdout


@pytest.mark.parametrize(("lr", "seed", "run"), [(0.01, 0, 0), (0.1, 1, 3)])
def test_a_run_is_what_fit_makes(linreg, folder, lr, seed, run):
    flags = ("--model.lr", lr, "--data.seed", seed, "--seed_everything", seed)
    fit = linreg("fit", "--config", FUSED, *flags).succeeded()
    assert coefficients(fit.run) == coefficients(folder / f"version_{run}")


def test_console_says_where_things_are_and_averages_the_seeds(swept, folder):
    assert re.findall(r"^\d/6  .*", swept.stdout, re.MULTILINE)[0] == "1/6  lr 0.01  seed 0  version_0"
    assert "\nlook        tensorboard --logdir runs/fused/sweep_0\n" in swept.stdout
    results = [run["result"] for run in record(folder)["runs"][:2]]
    mean = sum(result["val/mse"] for result in results) / 2
    (shown,) = re.findall(r"^0\.01 +2 .* (\S+) ± \S+$", swept.stdout, re.MULTILINE)
    assert float(shown) == pytest.approx(mean, rel=1e-3)


def test_picture_has_something_on_it(folder):
    with Image.open(folder / "sweep.png") as picture:
        colors = dict(map(reversed, picture.convert("RGB").getcolors(2**20)))
    assert colors[255, 255, 255] > sum(colors.values()) / 2  # white face
    assert colors.keys() >= {(31, 119, 180), (255, 127, 14)}  # a line for each of both errors


def test_hparams_of_all_runs_line_up(folder):
    keys = set()
    for run in sorted(folder.glob("version_*"))[:4]:
        events = EventAccumulator(str(run))
        events.Reload()
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        keys.add(tuple(sorted(HParamsPluginData.FromString(content).session_start_info.hparams)))
    assert len(keys) == 1
    assert {"lr", "seed", "batch_size"} <= set(*keys)


def test_finished_sweep_is_not_touched_by_the_same_command(swept, folder):
    before = (folder / "sweep.json").read_bytes()
    short = ("--config", FUSED, "--trainer.max_epochs", "1..2")
    for number in (1, 2):
        again = in_process(swept.cwd, "sweep", *short).succeeded()
        assert f"this sweep  runs/fused/sweep_{number}\n" in again.stdout
        assert "continuing" not in again.stdout
    assert (folder / "sweep.json").read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [
        ("--model.lrr", "0.1,0.2"),
        ("--modle.lr", "0.1,0.2"),
        ("--model.lr", "0.1,abc"),
        ("--model", "Scratch,Scrach"),
        ("--trainer.strategy", "auto,fsdp"),
        ("--trainer.max_epochs", "1,many"),
    ],
    ids=str,
)
def test_wrong_flag_is_refused_by_fits_own_sentence_before_the_first_run(linreg, tmp_path, flags):
    sweep = linreg("sweep", "--config", SCRATCH, *flags)
    flag, texts = flags
    fits = [linreg("fit", "--config", SCRATCH, flag, text) for text in texts.split(",")]
    assert sweep.stderr in {fit.stderr for fit in fits}
    assert sweep.stderr.startswith("error: ")
    assert sweep.status in (1, 2)
    assert sweep.stdout == ""
    assert not list(tmp_path.glob("runs/scratch/sweep_*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--config", SCRATCH), "sweep needs a flag with several values, e.g. --model.lr 0.01,0.1 or --seed 0..4"),
        (("scratch",), "scratch: sweep takes flags with values, as fit does; see python train.py sweep --help"),
        (("--model.lr",), "--model.lr: sweep takes flags with values, as fit does; see python train.py sweep --help"),
        (
            ("--config", SCRATCH, "--ckpt_path", "a,b"),
            "--ckpt_path: sweep starts and writes the runs itself; leave the flag out",
        ),
    ],
)
def test_wrong_use_is_refused(linreg, tmp_path, arguments, sentence):
    outcome = linreg("sweep", *arguments)
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", f"error: {sentence}\n")
    assert not list(tmp_path.iterdir())


def test_torchrun_is_refused(linreg, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    outcome = linreg("sweep", *SWEEP)
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: sweep starts the processes of each run itself")


def test_runs_of_several_processes_have_processes_of_their_own(launch, tmp_path):
    flags = ("--trainer.strategy", "ddp", "--trainer.devices", 1, "--trainer.max_epochs", 1)
    launch("sweep", "--config", FUSED, "--model.lr", "9,0.1", *flags).succeeded()
    refused, done = record(tmp_path / "runs/fused/sweep_0")["runs"]
    assert refused["refused"].startswith("--model.lr 9: diverges on these data")
    assert done["result"]["val/mse"] < 1


def test_help_needs_no_run(linreg):
    assert linreg("sweep", "--help").succeeded().stdout.startswith("python train.py sweep --config")


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("{grit: 1}", "bad.yaml: sweep: may hold only the keys grid, x, y, question, theory, slope_from, answer"),
        ("[1]", "bad.yaml: sweep: may hold only the keys grid, x, y, question, theory, slope_from, answer"),
        ("{y: [val/mes]}", "section sweep: does not fit the runs of runs/bad/sweep_0: 'val/mes' is none of"),
        ("{x: lr}", "section sweep: does not fit the runs of runs/bad/sweep_0: 'lr' is none of"),
        ("{theory: {a: 1 / 0}}", "section sweep: does not fit the runs of runs/bad/sweep_0: division by zero"),
        ("{theory: {a: lrr}}", "section sweep: does not fit the runs of runs/bad/sweep_0: name 'lrr' is not defined"),
        ("{theory: {a: 2 +}}", "section sweep: does not fit the runs of runs/bad/sweep_0: invalid syntax"),
    ],
)
def test_wrong_section_is_refused(linreg, tmp_path, section, sentence):
    (tmp_path / "bad.yaml").write_text(f"sweep: {section}\nmodel: Fused\ndata: Synthetic\n")
    outcome = linreg("sweep", "--config", "bad.yaml", "--model.lr", "0.01,0.1", "--trainer.max_epochs", 1)
    assert outcome.status == 1
    assert outcome.stderr.startswith(f"error: {sentence}")
    assert outcome.stderr.count("\n") == 1


def test_section_may_be_mended_without_new_runs(linreg, tmp_path):
    for section in ("{y: [val/mes]}", "{y: [val/mse], theory: {twice: 2 * val_mse}, answer: '{twice[lr=0.1]:.9f}'}"):
        (tmp_path / "it.yaml").write_text(f"sweep: {section}\nmodel: Fused\ndata: Synthetic\n")
        outcome = linreg("sweep", "--config", "it.yaml", "--model.lr", "0.01,0.1")
    assert outcome.succeeded().stdout.startswith("continuing runs/it/sweep_0: 2 runs are done\n")
    mse = record(tmp_path / "runs/it/sweep_0")["runs"][1]["result"]["val/mse"]
    assert f"\n{2 * mse:.9f}\n" in outcome.stdout


def test_answer_that_other_flags_make_impossible_costs_no_table(linreg):
    ridge = ("--config", CONFIGS / "exercises/ridge.yaml", "--model.ridge", "1,2")
    outcome = linreg("sweep", *ridge, "--data.num_train", 100).succeeded()
    assert "\nthe answer of the config does not fit these runs: " in outcome.stdout
    assert re.search(r"^2 +1 +1\.\d+ +1\.961$", outcome.stdout, re.MULTILINE)


def test_no_good_run_is_an_error(linreg):
    outcome = linreg("sweep", "--config", FUSED, "--model.lr", "8,9")
    assert outcome.status == 1
    assert outcome.stderr.startswith("error: no run succeeded; the first: --model.lr 8: diverges on these data")


def test_diverged_run_is_noted(linreg, tmp_path):
    flags = ("--model.lr", "0.1,9", "--guard", "false", "--trainer.max_epochs", 1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    outcome = linreg("sweep", "--config", FUSED, *flags).succeeded()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    good, bad = record(tmp_path / "runs/fused/sweep_0")["runs"]
    assert good["result"]["val/mse"] < 1
    assert not bad["refused"]
    assert bad["result"]["val/mse"] is None
    assert re.search(r"^9 +1$", outcome.stdout, re.MULTILINE)


BROKEN = """
from linreg_pl import Fused

class Broken(Fused):
    def on_train_start(self):
        super().on_train_start()
        if self.lr == 0.01:
            raise RuntimeError("the roof fell in")
"""


def test_whatever_breaks_a_run_the_others_go_on(linreg, tmp_path, monkeypatch):
    (tmp_path / "broken_model.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    linreg("sweep", "--config", FUSED, "--model", "broken_model.Broken", "--model.lr", "0.01,0.1").succeeded()
    first, second = record(tmp_path / "runs/fused/sweep_0")["runs"]
    assert (first["refused"], second["refused"]) == ("RuntimeError: the roof fell in", "")


def start(cwd, *flags):
    command = [sys.executable, str(REPOSITORY / "train.py"), "sweep", *map(str, flags)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_stopped_sweep_goes_on_where_it_was(tmp_path):
    flags = ("--config", SCRATCH, "--model.lr", "0.01,0.02,0.03", "--trainer.max_epochs", 15)
    folder = tmp_path / "runs/scratch/sweep_0"

    process = start(tmp_path, *flags)  # SIGTERM within the first run
    wait_until((folder / "version_0/checkpoints/last.ckpt").exists, process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (143, "")
    assert "stopped; to continue runs/scratch/sweep_0, run the same command again\n" in stdout

    process = start(tmp_path, *flags)  # kill -9 within the second
    wait_until((folder / "version_1/config.yaml").exists, process)
    process.send_signal(signal.SIGSTOP)
    other = in_process(tmp_path, "sweep", *flags).succeeded()  # while a process runs one sweep, this is another
    process.kill()
    stdout, _ = process.communicate()
    assert "this sweep  runs/scratch/sweep_1\n" in other.stdout
    assert stdout.startswith("continuing runs/scratch/sweep_0: 0 runs are done\n")
    done = [run["folder"] for run in record(folder)["runs"]]
    assert done == ["version_0"]
    kept = {name: (folder / name / "report.json").stat().st_mtime_ns for name in done}

    again = in_process(tmp_path, "sweep", *flags).succeeded()
    assert again.stdout.startswith(f"continuing runs/scratch/sweep_0: {len(done)} runs are done\n")
    assert {name: (folder / name / "report.json").stat().st_mtime_ns for name in done} == kept
    runs = record(folder)["runs"]
    assert [run["flags"]["model.lr"] for run in runs] == ["0.01", "0.02", "0.03"]
    assert {path.name for path in folder.glob("version_*")} == {run["folder"] for run in runs}
    assert all((folder / run["folder"] / "report.json").exists() for run in runs)
    straight = record(tmp_path / "runs/scratch/sweep_1")
    for run, expected in zip(runs, straight["runs"], strict=True):
        assert run["result"] | {"seconds": 0} == expected["result"] | {"seconds": 0}
