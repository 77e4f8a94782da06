import csv
import json
import math
import re
from pathlib import Path

import pytest

from linreg_pl.errors import InputError
from linreg_pl.runs import report

RESULT = {
    "model": "scratch",
    "lr": 0.03,
    "coefficients": [
        {"name": "größe", "estimate": 1.5, "true": 1.0, "error": 0.5},
        {"name": "bias", "estimate": -2.0, "true": -2.0, "error": 0.0},
    ],
    "train": {"loss": 0.25, "mse": 0.5, "rmse": 0.5**0.5, "r2": 0.875},
    "val": {"loss": 1.0, "mse": 2.0, "rmse": 2.0**0.5},
}


def test_what_is_written_is_read(tmp_path):
    report.write(RESULT, tmp_path)
    assert report.read(tmp_path) == RESULT
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "coefficients.csv"}


def test_report_is_json_in_utf8(tmp_path):
    report.write(RESULT, tmp_path)
    text = (tmp_path / "report.json").read_bytes().decode("utf-8")
    assert "größe" in text
    assert json.loads(text)["coefficients"][0]["estimate"] == 1.5


def test_coefficients_are_a_csv(tmp_path):
    report.write(RESULT | {"coefficients": [{"name": 'a "b", c', "estimate": 0.1}, {"name": "bias"}]}, tmp_path)
    with (tmp_path / "coefficients.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name", "estimate"], ['a "b", c', "0.1"], ["bias", ""]]


def test_a_row_with_all_numbers_is_shown_as_its_model_asks_for():
    row = {"name": "x", "true": 1.0, "error": 0.5, "estimate": 1.5, "optimum": 1.25, "distance": 0.25}
    row |= {"standard_error": 0.5, "ci_low": 0.25, "ci_high": 2.25, "t": 2.5, "p": 0.0625}
    sgd = RESULT | {"coefficients": [row], "confidence_level": 0.9}
    exact = {key: value for key, value in sgd.items() if key != "lr"}
    shown = [re.split("  +", line) for line in report.format_report(sgd, None).splitlines()[:2]]
    assert shown == [
        ["", "estimate", "optimum", "distance", "standard error", "true", "error"],
        ["x", "1.5", "1.25", "0.25", "0.5", "1", "0.5"],
    ]
    shown = [re.split("  +", line) for line in report.format_report(exact, None).splitlines()[:2]]
    assert shown == [
        ["", "estimate", "standard error", "0.9 from", "to", "t", "p", "true", "error"],
        ["x", "1.5", "0.5", "0.25", "2.25", "2.5", "0.062", "1", "0.5"],
    ]


def test_how_far_sgd_is_from_the_optimum_is_said_with_the_reason():
    near = report.format_report(RESULT | {"joint_distance": 0.25}, None)
    assert "SGD has come as near to the optimum as the data can tell (joint distance 0.25, at most 1)" in near
    far = report.format_report(RESULT | {"joint_distance": 2500.0, "reason": "too few steps"}, None)
    assert "SGD is not at the optimum (joint distance 2,500, should be at most 1): too few steps" in far
    for none in ({}, {"joint_distance": None}):
        assert "SGD" not in report.format_report(RESULT | none, None)


def test_columns_have_one_order_whatever_that_of_the_numbers(tmp_path):
    row = {"name": "x", "more": 1, "error": 0.5, "distance": 0.25, "estimate": 1.5}
    report.write(RESULT | {"coefficients": [row]}, tmp_path)
    first, _ = (tmp_path / "coefficients.csv").read_text().splitlines()
    assert first == "name,estimate,distance,error,more"


def test_failed_write_leaves_the_old_report(tmp_path):
    report.write(RESULT, tmp_path)
    with pytest.raises(TypeError):
        report.write(RESULT | {"net": object()}, tmp_path)
    assert report.read(tmp_path) == RESULT


def test_result_that_is_not_finite_is_still_json(tmp_path):
    report.write(RESULT | {"train": {"mse": math.inf, "loss": math.nan}}, tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["train"] == {"mse": None, "loss": None}
    assert "train" in report.format_report(report.read(tmp_path), tmp_path)


def test_scores_are_aligned_and_absent_ones_blank():
    assert report.format_scores(RESULT).splitlines() == [
        "       loss  mse      rmse     r2",
        "train  0.25  0.5  0.707107  0.875",
        "val       1    2   1.41421",
    ]


def test_table_aligns_names_left_and_numbers_right():
    assert report.table([["", "a"], ["long name", "1"], ["x", "22"]]) == "            a\nlong name   1\nx          22"


def test_long_gradients_are_cut():
    text = report.format_report(RESULT | {"gradients": {"weight": [float(i) for i in range(20)], "bias": [1.0]}}, None)
    assert "gradient of weight: [0, 1, 2, 3, 4, 5, 6, 7, …]" in text
    assert "gradient of bias: [1]" in text


def test_next_commands_name_the_run(tmp_path):
    text = report.format_report(RESULT, tmp_path)
    assert f"again     linreg report {tmp_path}" in text
    assert f"next      linreg validate {tmp_path}" in text
    assert "this run" not in report.format_report(RESULT, None)


def test_nothing_to_validate_means_predict_comes_next(tmp_path):
    text = report.format_report({key: value for key, value in RESULT.items() if key != "val"}, tmp_path)
    assert f"next      linreg predict {tmp_path}" in text


def test_folder_without_report_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no report\.json"):
        report.read(tmp_path)


@pytest.mark.parametrize(
    ("folder", "logdir", "run"),
    [
        ("runs/scratch/version_1", "runs", "scratch/version_1$"),
        ("my runs/a+b (1)/version_1", "'my runs'", "a%5C%2Bb%5C%20%5C%281%5C%29/version_1$"),
        ("version_1", ".", "version_1$"),
    ],
)
def test_tensorboard_is_led_to_the_run(folder, logdir, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "tensorboard" not in report.format_report(RESULT, Path(folder))  # there is nothing for it
    Path(folder).mkdir(parents=True)
    Path(folder, "events.out.tfevents.1").touch()
    text = report.format_report(RESULT, Path(folder))
    assert f"look      tensorboard --logdir {logdir} --host localhost\n" in text
    assert text.splitlines()[-3].endswith(f"&regexInput=%5E{run}")


def test_run_seen_from_within_has_its_true_name(tmp_path, monkeypatch):
    (tmp_path / "runs/scratch/version_1/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/scratch/version_1/events.out.tfevents.1").touch()
    monkeypatch.chdir(tmp_path / "runs/scratch/version_1/checkpoints")
    text = report.format_report(RESULT, Path(".."))
    assert f"--logdir {tmp_path / 'runs'} --host" in text
    assert text.splitlines()[-3].endswith("=%5Escratch/version_1$")


def test_long_markdown_table_is_cut():
    rows = [{"name": f"x{number}", "estimate": 1.0} for number in range(500)]
    text = report.format_markdown(RESULT | {"coefficients": rows})
    assert "| x199 |" in text
    assert "| x200 |" not in text
    assert "300 more are in coefficients.csv" in text
