"""A step size that must diverge is refused before the first step; a run that diverges later is stopped."""

import math
import re

import lightning.pytorch as L
import numpy as np
import pyarrow as pa
import pytest
import scipy.linalg
import torch
from pyarrow import parquet

from linreg_pl.data.spill import Spill
from linreg_pl.data.synthetic import Synthetic
from linreg_pl.models import LinearModel
from tests.support.commands import CONCISE, CONFIGS, SCRATCH, TABLE, in_process, on_processes

FUSED = CONFIGS / "fused.yaml"
HESSIAN_PER_CURVATURE = {"scratch": 1.0, "concise": 2.0, "fused": 1.0, "table": 2.0}  # of half, and of the whole square
REFUSAL = re.compile(
    r"error: --model.lr \S+: diverges on these data with --data.batch_size (?P<batch_size>\d+), where (?P<number>\S+)"
    r" is the largest stable one; set --model.lr (?P=number) or less(?P<advice>.*) \(--guard false tries it all the"
    r" same\)\n"
)
ALL = pytest.mark.parametrize("config", [SCRATCH, CONCISE, FUSED], ids=lambda config: config.stem)


def largest_stable_lr(X, config=SCRATCH, batch_size=10, bias=True, weight_decay=0.0):
    """2 / λmax(E[A]⁻¹ E[A²]) over all mini-batches that can be drawn, by scipy."""
    Z = np.column_stack([X, np.ones(len(X))]) if bias else X
    rows, size = len(X), min(batch_size, len(X))
    mean, square = Z.T @ Z / rows, (Z * np.square(Z).sum(axis=1, keepdims=True)).T @ Z / rows
    pairs = (rows * mean @ mean - square) / (rows - 1)
    square = square / size + (1 - 1 / size) * pairs
    scale, penalty = HESSIAN_PER_CURVATURE[config.stem], weight_decay * np.diag([1.0] * X.shape[1] + [0.0] * bias)
    mean, square = scale * mean, scale**2 * square
    square = square + mean @ penalty + penalty @ mean + penalty @ penalty
    return 2 / scipy.linalg.eigh(square, mean + penalty, eigvals_only=True)[-1]


def default_features():
    return Synthetic().raw("train")[0].double().numpy()


def refused(outcome):
    """The largest stable lr as the one sentence names it, and what it advises besides; nothing was trained."""
    match = REFUSAL.fullmatch(outcome.stderr)
    assert match, outcome.stderr
    assert (outcome.status, outcome.stdout) == (1, "")
    assert not list(outcome.cwd.rglob("*.ckpt"))
    assert not list(outcome.cwd.rglob("report.json"))
    return float(match["number"]), match["advice"]


def assert_rounded_down(number, limit):
    """To three digits."""
    assert 0.99 * limit < number <= limit


def losses(outcome):
    return [float(loss) for loss in re.findall(r"^epoch \d+, loss (\S+)$", outcome.stdout, re.MULTILINE)]


@ALL
def test_lr_of_5_is_refused_with_the_largest_stable_one(linreg, config):
    number, advice = refused(linreg("fit", "--config", config, "--model.lr", 5))
    assert_rounded_down(number, largest_stable_lr(default_features(), config))
    assert advice == ""  # the columns are of one scale already


def test_number_for_concise_is_half_of_that_for_scratch(linreg):
    numbers = {
        config.stem: refused(linreg("fit", "--config", config, "--model.lr", 5))[0] for config in (SCRATCH, CONCISE)
    }
    assert numbers["concise"] == pytest.approx(numbers["scratch"] / 2, rel=0.01)


@ALL
def test_just_below_the_number_it_converges(linreg, config, tmp_path):
    limit = largest_stable_lr(default_features(), config)
    (tmp_path / "above").mkdir()
    number, _ = refused(in_process(tmp_path / "above", "fit", "--config", config, "--model.lr", 1.01 * limit))
    fit = linreg("fit", "--config", config, "--model.lr", 0.99 * number, "--trainer.max_epochs", 10)
    assert len(losses(fit)) == 10
    start = HESSIAN_PER_CURVATURE[config.stem] / 2 * (2**2 + 3.4**2 + 4.2**2)
    assert max(losses(fit)[4:]) < 0.01 * start  # a NaN is not less


def test_number_itself_is_accepted(linreg, tmp_path):
    (tmp_path / "above").mkdir()
    number, _ = refused(in_process(tmp_path / "above", "fit", "--config", SCRATCH, "--model.lr", 5))
    assert linreg("fit", "--config", SCRATCH, "--model.lr", number, "--trainer.max_epochs", 1).status == 0


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (("--data.batch_size", 1), {"batch_size": 1}),
        (("--data.batch_size", 333), {"batch_size": 333}),  # the rows left over are no whole mini-batch
        (("--data.batch_size", 5000), {"batch_size": 5000}),  # more than there are rows
        (("--model.bias", "false"), {"bias": False}),
        (("--model.weight_decay", 3), {"weight_decay": 3.0}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("config", [SCRATCH, CONCISE], ids=lambda config: config.stem)
def test_number_knows_the_mini_batches_and_the_model(linreg, config, flags, arguments):
    number, _ = refused(linreg("fit", "--config", config, "--model.lr", 5, *flags))
    assert_rounded_down(number, largest_stable_lr(default_features(), config, **arguments))


def test_whole_table_as_one_mini_batch_has_the_limit_of_gradient_descent(linreg):
    X = np.column_stack([default_features(), np.ones(1000)])
    limit = 2 / np.linalg.eigvalsh(X.T @ X / 1000).max()
    whole = ("fit", "--config", SCRATCH, "--data.batch_size", 1000)
    assert_rounded_down(refused(linreg(*whole, "--model.lr", 1.01 * limit))[0], limit)
    # Sharp: without the guard it goes the wrong way just above, and the right way just below.
    above = linreg(*whole, "--model.lr", 1.05 * limit, "--guard", "false", "--trainer.max_epochs", 60)
    assert losses(above)[-1] > 10 * losses(above)[0]


def test_sum_over_a_mini_batch_larger_than_the_table_is_that_over_the_table(linreg):
    limit = largest_stable_lr(default_features(), CONCISE, batch_size=1000) / 1000
    whole = ("fit", "--config", CONCISE, "--model.reduction", "sum", "--data.batch_size", 2000)
    assert_rounded_down(refused(linreg(*whole, "--model.lr", 1.01 * limit))[0], limit)
    assert losses(linreg(*whole, "--model.lr", 0.9 * limit).succeeded())


def test_processes_refuse_with_one_voice(tmp_path):
    outcome = on_processes(2, tmp_path, "fit", "--config", SCRATCH, "--model.lr", 5)
    assert_rounded_down(refused(outcome)[0], largest_stable_lr(default_features()))


@pytest.fixture
def unscaled(tmp_path):
    """A table with one column a thousand times as large as the other."""
    random = np.random.default_rng(0)
    X = random.normal(size=(2000, 2)) * [1.0, 1000.0]
    y = X @ [0.5, 3.0] + random.normal(size=2000)
    parquet.write_table(pa.table({"small": X[:, 0], "large": X[:, 1], "target": y}), tmp_path / "t.parquet")
    return X, y


UNSCALED = ("fit", "--config", TABLE, "--data.path", "t.parquet", "--data.target", "target")
UNSCALED += ("--data.standardize", "false", "--data.batch_size", 10, "--trainer.max_epochs", 10)


def test_column_to_blame_and_the_mend_are_named(linreg, unscaled):
    number, advice = refused(linreg(*UNSCALED, "--model.lr", 0.1))
    assert_rounded_down(number, largest_stable_lr(unscaled[0], TABLE))
    assert advice == ", or --data.standardize true, since column 'large' outweighs the rest"


def test_unscaled_table_converges_just_below_the_number(linreg, unscaled):
    X, y = unscaled
    number, _ = refused(linreg(*UNSCALED, "--model.lr", 1.01 * largest_stable_lr(X, TABLE)))
    fit = linreg(*UNSCALED, "--model.lr", 0.99 * number, "--trainer.default_root_dir", "below")
    assert len(losses(fit)) == 10
    assert losses(fit)[-1] < 1e-3 * np.square(y).mean()


def test_unscaled_table_converges_with_the_mend(linreg, unscaled):
    X, y = unscaled
    fit = linreg(*UNSCALED, "--data.standardize", "true").succeeded()
    optimum = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y)[1][0] / len(y)
    assert losses(fit)[-1] < 1.5 * optimum


def test_standardised_table_is_judged_by_its_standardised_columns(linreg, unscaled):
    X = unscaled[0]
    number, advice = refused(linreg(*UNSCALED, "--data.standardize", "true", "--model.lr", 5))
    X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)
    assert_rounded_down(number, largest_stable_lr(X, TABLE))
    assert advice == ""


STREAMED = ("--data.standardize", "true", "--data.memory", 1, "--trainer.max_epochs", 1)


@pytest.fixture
def large(tmp_path):
    """A table of which 1 MiB cannot hold the rows."""
    random = np.random.default_rng(1)
    X = random.standard_t(5, size=(100_000, 2))
    y = X @ [1.0, 2.0] + random.normal(size=100_000)
    parquet.write_table(pa.table({"x": X[:, 0], "z": X[:, 1], "target": y}), tmp_path / "t.parquet")
    return X


@pytest.mark.parametrize("processes", [1, 2])
def test_streamed_table_is_refused_with_the_number_of_all_its_rows(tmp_path, large, processes):
    outcome = on_processes(processes, tmp_path, *UNSCALED, *STREAMED, "--model.lr", 5)
    assert outcome.status == 1
    X = ((large - large.mean(axis=0)) / large.std(axis=0)).astype(np.float32)
    assert_rounded_down(float(REFUSAL.fullmatch(outcome.stderr)["number"]), largest_stable_lr(X, TABLE))


def test_rows_of_a_file_are_not_read_to_judge_an_lr_that_is_surely_stable(tmp_path, large, monkeypatch):
    asked, in_order = [], Spill.in_order
    monkeypatch.setattr(Spill, "in_order", lambda spill: asked.append(spill) or in_order(spill))
    X = (large - large.mean(axis=0)) / large.std(axis=0)
    for lr, readings in ((0.001, 0), (0.9 * largest_stable_lr(X, TABLE, batch_size=10), 1)):
        outcome = in_process(tmp_path, *UNSCALED, *STREAMED, "--model.lr", lr, "--trainer.default_root_dir", str(lr))
        assert losses(outcome.succeeded())
        assert len(asked) == readings


def test_without_guard_it_runs_on(linreg):
    fit = linreg("fit", "--config", SCRATCH, "--model.lr", 5, "--guard", "false")
    assert fit.status == 0
    assert len(losses(fit)) == 3
    assert not math.isfinite(losses(fit)[-1])
    assert fit.report["train"]["mse"] is None  # JSON has no NaN


@pytest.mark.parametrize(
    "flags",
    [
        ("--model.loss", "huber"),  # its steps are bounded
        ("--model.optimizer", "Adam"),
        ("--trainer.gradient_clip_val", 1),
        ("--trainer.accumulate_grad_batches", 4),  # 0.75 is stable for the 40 rows of a step
    ],
    ids=lambda flags: flags[0],
)
def test_steps_of_another_kind_are_not_judged_as_plain_ones(linreg, flags):
    above = 0.75
    assert above > largest_stable_lr(default_features(), CONCISE)
    fit = linreg("fit", "--config", CONCISE, "--model.lr", above, *flags).succeeded()
    assert losses(fit)[-1] < 1.0  # from 33


class Push(L.Callback):
    """Makes a weight infinite after the last step of an epoch, when no loss will tell any more."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert isinstance(pl_module, LinearModel)
        if trainer.is_last_batch and trainer.current_epoch == self.epoch:
            pl_module.parameter_vectors()[0].data.fill_(math.inf)


PUSH = ("--trainer.callbacks", f"{__name__}.Push", "--trainer.callbacks.epoch")
WILDER = ("--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", 1, "--model.lr_scheduler.gamma", 1000)
MOMENTUM = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.momentum", 0.9, "--model.lr", 5)
STOPPED = re.compile(r"error: step (\d+): (.*), the run has diverged; (.*); (.*)\n")


def stopped(outcome):
    """The step, what happened, the last good checkpoint and the advice; no checkpoint holds what is not finite."""
    match = STOPPED.fullmatch(outcome.stderr)
    assert match, outcome.stderr
    assert outcome.status == 1
    assert not (outcome.run / "report.json").exists()
    for path in outcome.run.rglob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(torch.isfinite(tensor).all() for tensor in weights), path
    step, what, kept, advice = match.groups()
    return int(step), what, kept, advice


def test_scheduler_that_makes_it_diverge(linreg):
    outcome = linreg("fit", "--config", CONCISE, *WILDER)
    step, what, kept, advice = stopped(outcome)
    assert 100 < step < 200  # in the second epoch
    assert what in ("the loss of the mini-batch is inf", "the loss of the mini-batch is nan")
    assert kept == f"the last good checkpoint is {outcome.run.relative_to(outcome.cwd)}/checkpoints/last.ckpt"
    assert advice == "set a smaller --model.lr"
    assert len(losses(outcome)) == 1
    assert outcome.last["global_step"] == 100


def test_run_goes_on_from_the_last_good_checkpoint(linreg):
    outcome = linreg("fit", "--config", CONCISE, *WILDER)
    last = outcome.run / "checkpoints/last.ckpt"
    again = linreg("validate", "--config", outcome.run / "config.yaml", "--ckpt_path", last).succeeded()
    assert float(re.search(r"^val +(\S+)", again.stdout, re.MULTILINE)[1]) < 1e-2


def test_momentum_that_makes_it_diverge_before_any_checkpoint(linreg):
    outcome = linreg("fit", "--config", CONCISE, *MOMENTUM)
    step, what, kept, _ = stopped(outcome)
    assert 1 < step < 100
    assert what in ("the loss of the mini-batch is inf", "the loss of the mini-batch is nan")
    assert kept == "no checkpoint was made yet"
    assert not list(outcome.run.rglob("*.ckpt"))


@ALL
def test_weights_are_looked_at_before_they_are_kept(linreg, config):
    outcome = linreg("fit", "--config", config, *PUSH, 1)
    step, what, kept, advice = stopped(outcome)
    assert (step, what) == (200, "a weight is not finite")
    assert kept.endswith("/checkpoints/last.ckpt")
    assert advice == "set --model.lr 0.015 or less"  # than the 0.03 that was tried, though on average that is stable
    assert outcome.last["global_step"] == 100


def test_without_guard_a_diverged_run_goes_to_its_end(linreg):
    fit = linreg("fit", "--config", CONCISE, *WILDER, "--guard", "false")
    assert (fit.status, fit.report["steps"]) == (0, 300)
