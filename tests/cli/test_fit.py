"""Both notebooks, as the README starts them."""

import csv
import re
import shlex

import numpy as np
import pytest
from sklearn.metrics import mean_squared_error, r2_score

from linreg_pl.data.synthetic import Synthetic
from tests.support.commands import CONCISE, CONFIGS, SCRATCH, in_process

TRUE = {"x0": 2.0, "x1": -3.4, "bias": 4.2}
LOSS_PER_SQUARED_ERROR = {"scratch": 0.5, "concise": 1.0}
NOISE_VARIANCE = 1e-4


def predictions(coefficients, part):
    """Predicted and true target of a part of the default data, by arithmetic."""
    X, y = (tensor.double().numpy() for tensor in Synthetic().raw(part))
    return X @ [coefficients["x0"], coefficients["x1"]] + coefficients["bias"], y[:, 0]


def losses(stdout):
    return [float(loss) for loss in re.findall(r"^epoch \d+, loss (\d+\.\d{6})$", stdout, re.MULTILINE)]


def test_fit_is_quiet_and_prints_a_line_per_epoch(fitted):
    fitted.succeeded()
    lines = [line for line in fitted.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split(",")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    first, _, last = losses("\n".join(lines))
    assert first > last


def test_last_loss_is_the_noise_floor(fitted):
    floor = NOISE_VARIANCE * LOSS_PER_SQUARED_ERROR[fitted.report["model"]]
    assert 0.8 * floor <= losses(fitted.stdout)[-1] <= 1.5 * floor


def test_fit_as_typed_in_a_shell(launch, scratch_fit):
    fit = launch("fit", "--config", SCRATCH).succeeded()
    assert losses(fit.stdout) == losses(scratch_fit.stdout)
    assert fit.coefficients == pytest.approx(scratch_fit.coefficients, abs=1e-5)


def test_coefficients_are_near_the_truth(fitted):
    assert fitted.coefficients == pytest.approx(TRUE, abs=3e-3)


def test_report_says_what_was_run(fitted):
    report = fitted.report
    facts = {"steps": 300, "epochs": 3, "world_size": 1, "num_train": 1000, "num_features": 2, "batch_size": 10}
    assert {key: report[key] for key in facts} == facts
    assert (report["model"], report["lr"]) == (fitted.run.parent.name, 0.03)
    assert 0 < report["seconds"] < 60


def test_report_compares_with_the_truth(fitted):
    for row in fitted.report["coefficients"]:
        assert row["true"] == TRUE[row["name"]]
        assert row["error"] == row["estimate"] - row["true"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_scores_are_those_of_the_coefficients(fitted, part):
    predicted, y = predictions(fitted.coefficients, part)
    scores, mse = fitted.report[part], mean_squared_error(y, predicted)
    assert scores["mse"] == pytest.approx(mse, rel=1e-4)  # the model predicts in float32
    assert scores["rmse"] == pytest.approx(mse**0.5, rel=1e-4)
    assert scores["loss"] == pytest.approx(mse * LOSS_PER_SQUARED_ERROR[fitted.report["model"]], rel=1e-4)
    assert scores["r2"] == pytest.approx(r2_score(y, predicted), abs=1e-8)


def test_printed_loss_is_the_reports(fitted):
    assert losses(fitted.stdout)[-1] == pytest.approx(fitted.report["train"]["loss"], abs=5e-7)


def test_console_shows_table_net_and_gradients(fitted):
    tables = {line.split()[0]: line.split()[1:] for line in fitted.stdout.splitlines() if line.strip()}
    for row in fitted.report["coefficients"]:
        assert tables[row["name"]][0] == f"{row['estimate']:.6g}"
    net = {"scratch": "linreg(X, w, b): w (2, 1), b (1,)", "concise": "(0): Linear(in_features=2, out_features=1"}
    assert net[fitted.report["model"]] in fitted.stdout
    weight, (bias,) = fitted.report["gradients"]["weight"], fitted.report["gradients"]["bias"]
    assert f"gradient of weight: [{weight[0]:.4g}, {weight[1]:.4g}]\ngradient of bias: [{bias:.4g}]" in fitted.stdout


def test_run_folder_holds_what_the_design_says(fitted):
    assert fitted.run.relative_to(fitted.cwd).as_posix() == f"runs/{fitted.report['model']}/version_0"
    files = {path.relative_to(fitted.run).as_posix() for path in fitted.run.rglob("*") if path.is_file()}
    wanted = {"config.yaml", "report.json", "coefficients.csv", "checkpoints/last.ckpt"}
    assert wanted | {"checkpoints/epoch=2-step=300.ckpt"} <= files
    assert sum(name.startswith("events.out.tfevents.") for name in files) == 1
    assert not [name for name in files if name.endswith(".tmp")]


def test_table_for_people_is_that_of_the_report(fitted):
    with (fitted.run / "coefficients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["x0", "x1", "bias"]
    for row, expected in zip(rows, fitted.report["coefficients"], strict=True):
        found = {key: value if key == "name" else float(value) for key, value in row.items() if value}
        assert found == expected  # the bias has no vif


def test_checkpoint_holds_the_coefficients(fitted):
    checkpoint = fitted.last  # loaded with weights_only=True
    assert checkpoint["coefficients"] == fitted.coefficients
    assert checkpoint["global_step"] == 300
    assert checkpoint["hyper_parameters"]["lr"] == 0.03


def test_half_the_lr_makes_concise_move_as_scratch(linreg, scratch_fit):
    concise = linreg("fit", "--config", CONCISE, "--model.lr", 0.015).succeeded()
    assert concise.coefficients == pytest.approx(scratch_fit.coefficients, abs=5e-6)


def test_printed_next_command_works(fitted_copy):
    (command,) = re.findall(r"^next +python train.py (.*)$", fitted_copy.stdout, re.MULTILINE)
    assert command.startswith("validate ")
    in_process(fitted_copy.cwd, *shlex.split(command)).succeeded()


def test_runs_own_config_gives_the_same_run(fitted, linreg):
    again = linreg("fit", "--config", fitted.run / "config.yaml").succeeded()
    (folder,) = again.cwd.glob("runs/*/version_*")
    assert folder.parent.name == fitted.report["model"]
    assert again.coefficients == fitted.coefficients


def test_every_run_has_a_folder_of_its_own(linreg):
    for _ in range(2):
        fit = linreg("fit", "--config", SCRATCH, "--trainer.max_epochs", 1).succeeded()
    assert sorted(path.name for path in fit.cwd.glob("runs/scratch/*")) == ["version_0", "version_1"]


def test_default_root_dir_moves_the_runs(linreg, tmp_path):
    linreg("fit", "--config", SCRATCH, "--trainer.default_root_dir", tmp_path / "elsewhere").succeeded()
    assert (tmp_path / "elsewhere/runs/scratch/version_0/report.json").is_file()
    assert not (tmp_path / "runs").exists()


def test_short_names_and_no_config(linreg):
    fit = linreg("fit", "--model", "Concise", "--data", "Synthetic", "--model.lr", 0.03).succeeded()
    assert fit.report["model"] == "concise"
    assert fit.coefficients == pytest.approx(TRUE, abs=3e-3)


def test_seed_decides_the_start(tmp_path):
    def coefficients_after_one_step(name, seed):
        (tmp_path / name).mkdir()
        one_step = ("--guard", "false", "--trainer.max_steps", 1, "--seed_everything", seed)
        return in_process(tmp_path / name, "fit", "--config", SCRATCH, *one_step).succeeded().coefficients

    first = coefficients_after_one_step("first", 0)
    assert coefficients_after_one_step("again", 0) == first
    assert coefficients_after_one_step("other", 1) != first


def test_without_bias_none_is_reported(linreg):
    fit = linreg("fit", "--config", SCRATCH, "--model.bias", "false").succeeded()
    assert list(fit.coefficients) == ["x0", "x1"]
    assert list(fit.last["coefficients"]) == ["x0", "x1"]


@pytest.mark.parametrize("features", [1, 5])
def test_any_number_of_features(linreg, features):
    weights = np.linspace(-1, 2, features).tolist()
    fit = linreg("fit", "--config", CONCISE, "--data.true_weight", weights, "--data.true_bias", 0.5).succeeded()
    expected = {f"x{i}": weight for i, weight in enumerate(weights)} | {"bias": 0.5}
    assert fit.coefficients == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_opens_with_its_command(config):
    assert f"#   python train.py fit --config configs/{config.name}\n" in config.read_text()


def test_many_epochs_are_told_sparsely(linreg):
    flags = ("--trainer.max_epochs", 234, "--data.num_train", 20, "--figures", "false", "--trainer.logger", "false")
    outcome = linreg("fit", "--config", SCRATCH, *flags).succeeded()
    told = [int(number) for number in re.findall(r"^epoch (\d+),", outcome.stdout, re.MULTILINE)]
    assert set(told) >= {*range(1, 11), *range(20, 101, 10), 200, 234}
    assert len(told) < 40  # others where an epoch takes seconds


@pytest.mark.parametrize(
    ("flags", "link"),
    [
        (["CSVLogger", "--trainer.logger.save_dir", "out"], None),
        (
            ["TensorBoardLogger", "--trainer.logger.save_dir", "out"],
            "timeseries&regexInput=%5Elightning_logs/version_0$",
        ),
    ],
)
def test_link_is_that_of_the_logger(linreg, flags, link):
    outcome = linreg("fit", "--config", SCRATCH, "--figures", "false", "--trainer.logger", *flags).succeeded()
    assert re.findall("http://localhost:6006/#(.*)", outcome.stdout) == ([link] if link else [])
    assert ("tensorboard --logdir out " in outcome.stdout) == bool(link)
