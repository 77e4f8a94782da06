"""Trainer flags work for both models, or are refused with a sentence that names the flag and the alternative."""

import json
import re

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch import nn

from linreg_pl.data.sampling import permutation
from linreg_pl.data.synthetic import Synthetic
from tests.support.commands import CONCISE, SCRATCH

BOTH = pytest.mark.parametrize("config", [SCRATCH, CONCISE], ids=lambda config: config.stem)
GRADIENT_OF_SQUARED_ERROR = {"scratch": 1.0, "concise": 2.0}
LR = 0.03


def fit(linreg, config, *flags):
    return linreg("fit", "--config", config, *flags)


def mini_batches(epochs, count=None, batch_size=10):
    """Rows of the mini-batches of the default data, in order."""
    for epoch in epochs:
        yield from permutation(1000, seed=0, epoch=epoch).split(batch_size)[:count]


def sgd(config, batches):
    """Coefficients after SGD on these mini-batches, in NumPy and float64."""
    X, y = (tensor.double().numpy() for tensor in Synthetic().raw("train"))
    start = 0.01 * torch.randn(2, generator=torch.Generator().manual_seed(0))
    theta = np.append(start.double().numpy(), 0.0)
    for rows in batches:
        Z = np.column_stack([X[rows], np.ones(len(rows))])
        gradient = GRADIENT_OF_SQUARED_ERROR[config.stem] * Z.T @ (Z @ theta - y[rows, 0]) / len(rows)
        theta -= LR * gradient
    return dict(zip(["x0", "x1", "bias"], theta, strict=True))


NO_EFFECT = [
    ("--trainer.deterministic", "true"),
    ("--trainer.benchmark", "true"),
    ("--trainer.inference_mode", "false"),
    ("--trainer.reload_dataloaders_every_n_epochs", 1),
    ("--trainer.num_sanity_val_steps", 2),
    ("--trainer.check_val_every_n_epoch", 3),
    ("--trainer.val_check_interval", 25),
    ("--trainer.val_check_interval", 0.25),
    ("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", 150),
    ("--trainer.max_time", "00:00:10:00"),
    ("--trainer.accelerator", "cpu", "--trainer.devices", 1, "--trainer.num_nodes", 1),
    ("--trainer.strategy", "single_device", "--trainer.sync_batchnorm", "true"),
    ("--trainer.callbacks", "LearningRateMonitor", "--trainer.log_every_n_steps", 7),
    ("--trainer.logger", "true", "--trainer.enable_checkpointing", "true"),
    ("--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1, "--trainer.limit_predict_batches", 1),
]


@BOTH
@pytest.mark.parametrize("flags", NO_EFFECT, ids=lambda flags: " ".join(map(str, flags)))
def test_flag_does_not_change_the_steps(linreg, request, config, flags):
    default = request.getfixturevalue(f"{config.stem}_fit")
    outcome = fit(linreg, config, *flags).succeeded()
    assert outcome.coefficients == default.coefficients
    assert outcome.report["steps"] == 300
    assert outcome.report["val"] == default.report["val"]


@BOTH
def test_max_steps_stops_within_an_epoch(linreg, config):
    outcome = fit(linreg, config, "--trainer.max_steps", 137).succeeded()
    assert outcome.report["steps"] == outcome.last["global_step"] == 137
    expected = sgd(config, list(mini_batches(range(2)))[:137])
    assert outcome.coefficients == pytest.approx(expected, abs=1e-5)


@BOTH
@pytest.mark.parametrize(("epochs", "steps"), [(1, 100), (4, 400)])
def test_max_epochs(linreg, config, epochs, steps):
    outcome = fit(linreg, config, "--trainer.max_epochs", epochs).succeeded()
    assert (outcome.report["epochs"], outcome.report["steps"]) == (epochs, steps)
    assert len(re.findall(r"^epoch \d+, loss", outcome.stdout, re.MULTILINE)) == epochs


@BOTH
def test_limit_train_batches_takes_the_first_of_every_epoch(linreg, config):
    outcome = fit(linreg, config, "--trainer.limit_train_batches", 20).succeeded()
    assert outcome.report["steps"] == 60
    assert outcome.coefficients == pytest.approx(sgd(config, mini_batches(range(3), 20)), abs=1e-5)


@BOTH
def test_overfit_batches_takes_the_same_every_epoch(linreg, config):
    outcome = fit(linreg, config, "--trainer.overfit_batches", 5).succeeded()
    assert outcome.report["steps"] == 15
    assert outcome.coefficients == pytest.approx(sgd(config, mini_batches([0, 0, 0], 5)), abs=1e-5)


@BOTH
def test_fast_dev_run_takes_one_step_and_writes_nothing(linreg, config, tmp_path):
    outcome = fit(linreg, config, "--trainer.fast_dev_run", "true").succeeded()
    assert outcome.stdout.count("epoch 1, loss") == 1
    (x0,) = re.findall(r"^x0 +(\S+)", outcome.stdout, re.MULTILINE)
    assert float(x0) == pytest.approx(sgd(config, mini_batches([0], 1))["x0"], abs=1e-5)
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_without_logger_no_file_is_written(linreg, request, config, tmp_path):
    outcome = fit(linreg, config, "--trainer.logger", "false").succeeded()
    default = request.getfixturevalue(f"{config.stem}_fit")
    assert default.stdout.startswith(outcome.stdout.rstrip("\n"))  # but for where the run lies
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_without_checkpoints_all_else_is_written(linreg, config):
    outcome = fit(linreg, config, "--trainer.enable_checkpointing", "false").succeeded()
    assert outcome.report["steps"] == 300
    assert not list(outcome.run.rglob("*.ckpt"))
    assert (outcome.run / "config.yaml").is_file()


@BOTH
@pytest.mark.parametrize("flag", ["--trainer.limit_val_batches", "--data.num_val"])
def test_without_validation_there_are_no_validation_scores(linreg, config, flag):
    outcome = fit(linreg, config, flag, 0).succeeded()
    assert "val" not in outcome.report
    assert "\nval" not in outcome.stdout
    assert outcome.report["steps"] == 300


@BOTH
def test_early_stopping_sees_the_validation_scores(linreg, config):
    stopping = ("EarlyStopping", "--trainer.callbacks.monitor", "val/mse", "--trainer.callbacks.min_delta", 1)
    flags = ("--trainer.callbacks", *stopping, "--trainer.callbacks.patience", 1, "--trainer.max_epochs", 50)
    outcome = fit(linreg, config, *flags).succeeded()
    assert outcome.report["epochs"] == 2  # from the second epoch on there is less than 1 to gain


@BOTH
def test_checkpoint_can_be_kept_by_validation_score(linreg, config):
    outcome = fit(linreg, config, "--checkpoint.monitor", "val/mse", "--checkpoint.save_top_k", 2).succeeded()
    assert len(list(outcome.run.glob("checkpoints/epoch=*.ckpt"))) == 2
    assert outcome.last["global_step"] == 300


@BOTH
@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 2e-6), ("bf16-mixed", 0.02)])
def test_precision(linreg, request, config, precision, tolerance):
    outcome = fit(linreg, config, "--trainer.precision", precision)
    default = request.getfixturevalue(f"{config.stem}_fit")
    assert outcome.status == 0
    assert outcome.coefficients == pytest.approx(default.coefficients, abs=tolerance)
    wide = precision == "64-true"
    state = outcome.last["state_dict"]
    assert state.pop("scaler._extra_state").dtype == torch.float64  # of raw columns, whatever the steps are taken in
    assert {value.dtype for value in state.values()} == {torch.float64 if wide else torch.float32}
    # Scores are taken in float64 whatever the precision, of the very coefficients that are reported.
    X, y = (tensor.double().numpy() for tensor in Synthetic().raw("train"))
    residual = X @ list(outcome.coefficients.values())[:2] + outcome.coefficients["bias"] - y[:, 0]
    if wide:
        assert outcome.report["train"]["mse"] == pytest.approx((residual**2).mean(), rel=1e-6)


def test_predictions_are_never_rounded_to_the_precision_of_the_steps(linreg, tmp_path):
    year = 2000 + np.arange(30.0)
    rows = "".join(f"{x},{3 * x + 1}\n" for x in year)
    (tmp_path / "t.csv").write_text(f"year,y\n{rows}")
    data = ("--data", "Table", "--data.path", "t.csv", "--data.target", "y")
    run = linreg("fit", "--model", "Concise", *data, "--trainer.precision", "bf16-true").run
    files = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    assert linreg("predict", *files).status == 0
    coefficients = {
        row["name"]: row["estimate"] for row in json.loads((run / "report.json").read_text())["coefficients"]
    }
    found = parquet.read_table(run / "predictions.parquet")["prediction"]
    np.testing.assert_allclose(found, coefficients["year"] * year + coefficients["bias"], rtol=1e-9)


@pytest.mark.parametrize(("name", "status"), [("SingleDeviceStrategy", 0), ("FSDPStrategy", 1)])
def test_strategy_may_be_a_class(linreg, tmp_path, name, status):
    strategy = {"class_path": f"lightning.pytorch.strategies.{name}"}
    strategy |= {"init_args": {"device": "cpu"}} if status == 0 else {}
    (tmp_path / "x.yaml").write_text(json.dumps({"trainer": {"strategy": strategy, "max_epochs": 1}}))
    outcome = linreg("fit", "--config", SCRATCH, "--config", "x.yaml")
    assert outcome.status == status
    assert ("too small to be split over devices" in outcome.stderr) == bool(status)


@BOTH
def test_profiler_reports(linreg, config):
    outcome = fit(linreg, config, "--trainer.profiler", "simple")
    assert outcome.status == 0
    assert "FIT Profiler Report" in outcome.stderr
    assert outcome.report["steps"] == 300


@BOTH
def test_detect_anomaly(linreg, request, config):
    outcome = fit(linreg, config, "--trainer.detect_anomaly", "true")
    assert outcome.status == 0
    assert outcome.coefficients == request.getfixturevalue(f"{config.stem}_fit").coefficients


@BOTH
def test_progress_bar_and_summary_can_be_had(linreg, config):
    flags = ("--trainer.enable_progress_bar", "true", "--trainer.enable_model_summary", "true")
    outcome = fit(linreg, config, *flags)
    assert outcome.status == 0
    assert "100/100" in outcome.stdout
    assert "Trainable params" in outcome.stderr + outcome.stdout  # Lightning prints it by rich if that is installed


@BOTH
def test_other_loggers_can_be_used(linreg, config, tmp_path):
    fit(linreg, config, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs").succeeded()
    (metrics,) = tmp_path.glob("logs/**/metrics.csv")
    assert "val/mse" in metrics.read_text().splitlines()[0]
    assert (metrics.parent / "report.json").is_file()


def test_accumulated_mini_batches_are_one_of_twice_the_size(linreg):
    outcome = fit(linreg, CONCISE, "--trainer.accumulate_grad_batches", 2).succeeded()
    assert outcome.report["steps"] == 150
    expected = sgd(CONCISE, mini_batches(range(3), batch_size=20))
    assert outcome.coefficients == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_concise_clips_gradients(linreg, algorithm):
    flags = ("--trainer.gradient_clip_val", 0.5, "--trainer.gradient_clip_algorithm", algorithm)
    outcome = fit(linreg, CONCISE, *flags, "--trainer.max_epochs", 1, "--guard", "false").succeeded()
    net = nn.Linear(2, 1)
    net.weight.data.copy_(0.01 * torch.randn(2, generator=torch.Generator().manual_seed(0)))
    net.bias.data.fill_(0)
    clip = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}[algorithm]
    trainer, (X, y) = torch.optim.SGD(net.parameters(), LR), Synthetic().raw("train")
    for rows in mini_batches([0]):
        trainer.zero_grad()
        nn.functional.mse_loss(net(X[rows]), y[rows]).backward()
        clip(net.parameters(), 0.5)
        trainer.step()
    expected = [*net.weight.data[0].tolist(), net.bias.item()]
    np.testing.assert_allclose(list(outcome.coefficients.values()), expected, atol=2e-5)


def test_any_optimizer_and_scheduler(linreg):
    adam = ("--model.optimizer", "Adam", "--model.optimizer.weight_decay", 0.001, "--model.lr", 0.1)
    step = ("--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", 1, "--model.lr_scheduler.gamma", 0.1)
    outcome = fit(linreg, CONCISE, *adam, *step).succeeded()
    assert outcome.coefficients == pytest.approx({"x0": 2.0, "x1": -3.4, "bias": 4.2}, abs=0.05)
    files = ("--config", outcome.run / "config.yaml", "--ckpt_path", outcome.run / "checkpoints/last.ckpt")
    linreg("validate", *files).succeeded()  # so the checkpoint can be read


def test_scheduler_can_follow_the_training_loss(linreg):
    plateau = "lightning.pytorch.cli.ReduceLROnPlateau"
    options = ("--model.lr_scheduler.monitor", "train/loss", "--model.lr_scheduler.patience", 0)
    outcome = fit(linreg, CONCISE, "--model.lr_scheduler", plateau, *options, "--trainer.max_epochs", 6).succeeded()
    assert outcome.last["optimizer_states"][0]["param_groups"][0]["lr"] < LR


REFUSED_BY_BOTH = [
    (("barebones", "true"), "True: would leave no report; use --trainer.logger false, which writes no files"),
    (
        ("strategy", "fsdp"),
        "fsdp: a linear model is too small to be split over devices; use ddp, which splits the rows",
    ),
]
REFUSED_BY_SCRATCH = [
    (("gradient_clip_val", 1), "1: this model takes its steps by hand; use --model Concise, which clips"),
    (
        ("accumulate_grad_batches", 2),
        "2: this model takes its steps by hand; a --data.batch_size that is as many times as large makes the same step",
    ),
]
REFUSED = [(config, *case) for config in (SCRATCH, CONCISE) for case in REFUSED_BY_BOTH]
REFUSED += [(SCRATCH, *case) for case in REFUSED_BY_SCRATCH]


@pytest.mark.parametrize(("config", "flag", "reason"), REFUSED, ids=lambda case: getattr(case, "stem", None))
def test_flag_is_refused_with_a_sentence(linreg, tmp_path, config, flag, reason):
    name, value = flag
    outcome = fit(linreg, config, f"--trainer.{name}", value)
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == f"error: --trainer.{name} {reason}\n"
    assert list(tmp_path.iterdir()) == []
