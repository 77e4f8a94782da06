"""``train.py compare``: finished runs side by side."""

import csv
import io
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from tests.support.commands import CONFIGS, REPOSITORY, in_process

STRANGE = "a_b|c & 5% <x>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: of one column, of two with HC3, and by SGD."""
    folder = tmp_path_factory.mktemp("runs")
    rows = "\n".join(f"{x},{x * x % 7},{3 * x + x * x % 5}" for x in range(30))
    (folder / "t.csv").write_text(f"x,{STRANGE},y\n{rows}\n")
    table = ("--data", "Table", "--data.path", "t.csv", "--data.target", "y")
    exact = ("fit", "--config", CONFIGS / "exact.yaml", *table)
    in_process(folder, *exact, "--data.features", "[x]").succeeded()
    in_process(folder, *exact, "--covariance", "HC3").succeeded()
    in_process(folder, "fit", "--config", CONFIGS / "table.yaml", *table).succeeded()
    return folder, ["runs/exact/version_0", "runs/exact/version_1", "runs/table/version_0"]


def compared(runs, *flags):
    folder, names = runs
    return in_process(folder, "compare", *names, *flags).succeeded().stdout


def report(runs, number):
    folder, names = runs
    return json.loads((folder / names[number] / "report.json").read_text())


def test_numbers_are_those_of_the_reports(runs):
    rows = list(csv.DictReader(io.StringIO(compared(runs, "--format", "csv"))))
    names = [row["name"] for row in rows]
    bottom = ["standard errors", "rows", "r2", "adjusted r2", "residual std", "F"]
    assert names == ["model", "x", "", STRANGE, "", "bias", "", *bottom]
    for number, run in enumerate(["exact/version_0", "exact/version_1", "table/version_0"]):
        cells = [row[run] for row in rows]
        mine = report(runs, number)
        for row in mine["coefficients"]:
            place = names.index(row["name"])
            assert float(cells[place]) == pytest.approx(row["estimate"], rel=1e-4)
            assert float(cells[place + 1].strip("()")) == pytest.approx(row["standard_error"], rel=1e-2)
        assert cells[names.index("standard errors")] == mine["covariance"]
        assert cells[names.index("rows")] == "30"
        assert float(cells[names.index("r2")]) == pytest.approx(mine["train"]["r2"], rel=1e-3)
        found = [cells[names.index(name)] for name in bottom[3:]]
        keys = ("adjusted_r2", "residual_std", "f")
        expected = [f"{mine['optimum'][key]:.4g}" for key in keys] if number < 2 else [""] * 3  # not of the optimum
        assert found == expected
    assert (rows[3]["exact/version_0"], rows[4]["exact/version_0"]) == ("", "")


def test_runs_of_the_same_name_in_two_places_are_two(runs, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "runs" / "exact", tmp_path / "exact")
    both = ["runs/exact/version_0", tmp_path / "exact" / "version_0"]
    text = in_process(folder, "compare", *both, "--format", "csv").succeeded().stdout
    assert text.splitlines()[0] == f"name,{both[0]},{both[1]}"


def test_stars_mark_small_p(runs):
    assert "*" not in compared(runs)
    rows = list(csv.DictReader(io.StringIO(compared(runs, "--format", "csv", "--stars"))))
    p = report(runs, 1)["coefficients"][1]["p"]
    marks = "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""
    assert rows[1]["exact/version_0"].endswith("***")
    assert rows[3]["exact/version_1"].lstrip("-.0123456789e") == marks
    assert compared(runs, "--stars").endswith("* p < 0.05, ** p < 0.01, *** p < 0.001\n")


def test_html_can_be_read(runs):
    table = ET.fromstring(compared(runs, "--format", "html", "--stars"))
    assert [len(row) for row in table.iter("tr")] == [4] * 14
    assert STRANGE in [cell.text for cell in table.iter("td")]


def test_latex_escapes_names(runs):
    text = compared(runs, "--format", "latex")
    assert r"a\_b|c \& 5\% <x> & " in text
    assert all(line.count(" & ") == 3 for line in text.splitlines() if line.endswith(r"\\"))


def test_markdown_has_as_many_cells_in_each_row(runs):
    lines = compared(runs, "--format", "markdown").splitlines()
    assert {line.replace(r"\|", "").count("|") for line in lines} == {5}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: RUN"),
        (("runs/exact/version_0", "--format", "word"), "invalid choice: 'word'"),
        (("runs/exact/version_9",), "holds no report.json"),
        (("broken",), "runs/broken/report.json: is not a report of this program"),
    ],
)
def test_refused_with_a_sentence(runs, arguments, sentence):
    folder, _ = runs
    (folder / "runs" / "broken").mkdir(exist_ok=True)
    (folder / "runs" / "broken" / "report.json").write_text('{"coefficients": 3}')
    outcome = in_process(folder, "compare", *(a.replace("broken", "runs/broken") for a in arguments))
    assert (outcome.status, outcome.stderr.count("\n")) == (1, 1)
    assert sentence in outcome.stderr


def test_needs_no_torch(runs):
    folder, names = runs
    program = f"import sys; sys.argv[1:] = ['compare', *{names}]; from linreg_pl.__main__ import main; main()"
    program += "; assert not {'torch', 'numpy', 'lightning'} & set(sys.modules)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {program}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
