"""A finished run's report, again: fast, and without torch."""

import pytest

from tests.support.commands import in_process, in_subprocess


def test_report_prints_what_fit_printed(fitted):
    outcome = in_process(fitted.cwd, "report", fitted.run.relative_to(fitted.cwd)).succeeded()
    assert fitted.stdout.endswith(f"\n\n{outcome.stdout}")
    assert outcome.stdout.lstrip().startswith("1,000 training rows, 2 columns\n\n      estimate")


def test_report_imports_neither_torch_nor_lightning(fitted):
    launcher = ("-X", "importtime")
    outcome = in_subprocess(fitted.cwd, "report", fitted.run, launcher=launcher)
    assert outcome.status == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in outcome.stderr.splitlines()}
    assert "linreg_pl" in imported
    assert not imported & {"torch", "lightning", "torchmetrics", "numpy", "pyarrow", "jsonargparse"}


def test_report_of_no_run_is_refused(linreg, tmp_path):
    outcome = linreg("report", tmp_path)
    sentence = f"error: {tmp_path}: holds no report.json; give the folder of a finished run, runs/NAME/version_N\n"
    assert (outcome.status, outcome.stdout, outcome.stderr) == (1, "", sentence)


def test_damaged_report_is_refused(linreg, tmp_path):
    (tmp_path / "report.json").write_text('{"model":')
    outcome = linreg("report", tmp_path)
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"error: {tmp_path / 'report.json'}: is not valid JSON (")
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("--help",), ("one", "two")])
def test_report_needs_one_folder(linreg, arguments):
    outcome = linreg("report", *arguments)
    sentence = "error: report needs the folder of one run: python train.py report runs/NAME/version_N\n"
    assert (outcome.status, outcome.stderr) == (1, sentence)
