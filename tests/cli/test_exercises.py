"""The exercises of the book: what their runs say is what theory and independent computation say."""

import csv
import fcntl
import math
import os
import re
import statistics
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
import torch
import yaml
from PIL import Image

from linreg_pl.data.perturbed import Perturbed
from linreg_pl.data.sampling import permutation
from tests.support.commands import CONFIGS, in_process

EXERCISES = sorted(path.stem for path in (CONFIGS / "exercises").glob("*.yaml"))
REFUSED = {"lr": 5, "reduction": 1, "feature_noise": 1}  # runs that must be, of each


class Exercise:
    """One command, and what it left."""

    def __init__(self, cwd, name):
        self.folder = cwd / f"runs/{name}/sweep_0"
        if not self.folder.exists():
            outcome = in_process(cwd, "sweep", "--config", CONFIGS / "exercises" / f"{name}.yaml").succeeded()
            assert (self.folder / "answer.txt").read_text() in outcome.stdout
        with (self.folder / "sweep.csv").open(newline="") as file:
            self.all = [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]
        self.rows = [row for row in self.all if not row["refused"]]
        self.answer = (self.folder / "answer.txt").read_text().rstrip().rsplit("\n\n", 1)[-1]

    def of(self, **flags):
        """The runs with these flags, by the last parts of their names."""
        return [row for row in self.rows if flags.items() <= {key.split(".")[-1]: row[key] for key in row}.items()]

    def one(self, column, **flags):
        (row,) = self.of(**flags)
        return row[column]

    def mean(self, column, **flags):
        return statistics.fmean(row[column] for row in self.of(**flags))


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


@pytest.fixture(scope="module")
def exercise(tmp_path_factory):
    """Run each exercise once, in whichever worker of pytest-xdist wants it first: look, but do not touch."""
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "exercises"
    root.mkdir(exist_ok=True)

    def run(name):
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return Exercise(root, name)

    return run


def least_squares(data):
    X, y = (tensor.double().numpy() for tensor in data.raw("train"))
    return np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y[:, 0], rcond=None)[0]


def slope(x, y):
    """Slope of log y against log x, and its standard error."""
    coefficients, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    return coefficients[0], math.sqrt(covariance[0, 0])


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_has_question_picture_and_answer(exercise, name):
    done = exercise(name)
    config = (CONFIGS / "exercises" / f"{name}.yaml").read_text()
    assert config.startswith("# d2l 3.")
    assert f"#   python train.py sweep --config configs/exercises/{name}.yaml\n" in config
    assert done.answer.endswith((".", "…", ")."))
    assert not re.search(r"\bnan\b|[{}]|does not fit", done.answer)
    assert len(done.all) - len(done.rows) == REFUSED.get(name, 0)
    with Image.open(done.folder / "sweep.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(2**20)}
    assert (31, 119, 180) in colors


@pytest.mark.parametrize(
    "name", [name for name in EXERCISES if name not in ("order", "weight_decay", "unequal_variance")]
)
def test_runs_are_as_theory_says(exercise, name):
    config = yaml.safe_load((CONFIGS / "exercises" / f"{name}.yaml").read_text())
    measured = config["sweep"]["y"][0]
    ratios = [row[measured] / row["theory"] for row in exercise(name).rows if row["theory"]]
    assert 0.6 < statistics.median(ratios) < 1.3


def test_lasso_leaves_columns_out_and_ridge_does_not(exercise):
    done = exercise("lasso")
    for row in done.rows:
        assert row["weight/x0"] == pytest.approx(row["theory"], abs=0.03)
    assert [row["columns_left"] for row in done.of(l1_ratio=1)] == [2, 2, 2, 2, 2, 1, 1]
    assert {row["columns_left"] for row in done.of(l1_ratio=0)} == {2}


def test_the_cross_validated_error_is_that_of_fits_to_fewer_rows(exercise):
    done = exercise("folds")
    errors = [done.mean("cv/mse", folds=folds) for folds in (2, 10, 50)]
    assert errors[0] > errors[1] > errors[2]
    assert all(done.one("fits", folds=folds, seed=0) == 100 * folds for folds in (2, 10, 50))


def test_size_of_a_test_is_what_statsmodels_gets(exercise):
    done, config = exercise("unequal_variance"), CONFIGS / "exercises/unequal_variance.yaml"
    arguments = yaml.safe_load(config.read_text())["data"]["init_args"]
    tables = [[x.double().numpy() for x in Perturbed(**arguments, seed=seed).raw("train")] for seed in range(50)]
    for kind in ("classical", "HC0", "HC3"):
        fits = (sm.OLS(y[:, 0], sm.add_constant(X)) for X, y in tables)
        theirs = [fit.fit(cov_type="nonrobust" if kind == "classical" else kind, use_t=True).pvalues[1] for fit in fits]
        assert [row["p/x0"] for row in done.of(covariance=kind)] == pytest.approx(theirs, rel=1e-8)
    sizes = {kind: done.mean("rejected", covariance=kind) for kind in ("classical", "HC3")}
    assert sizes["classical"] > 0.3
    assert abs(sizes["HC3"] - 0.05) < 2 * math.sqrt(0.05 * 0.95 / 50)


def test_closed_form_is_the_least_squares_solution(exercise):
    done, data = exercise("closed_form"), Perturbed()
    w0, w1, b = least_squares(data)
    for row in done.of(model="Exact"):
        assert (row["weight/x0"], row["weight/x1"], row["bias"]) == pytest.approx((w0, w1, b), abs=1e-10)
    distances = [row["distance"] for row in done.of(model="Scratch")]
    assert distances[0] > 10 * distances[1] > 50 * distances[2]


def test_every_start_comes_closer_by_the_same_factor(exercise):
    done = exercise("init")
    for init_std in (31.6, 1000):
        first, second = (done.one("distance", init_std=init_std, max_epochs=epochs) for epochs in (1, 2))
        assert math.log(first / second) == pytest.approx(-100 * math.log(1 - 0.03), rel=0.1)
    assert done.one("distance", init_std=0, max_epochs=5) < 0.001
    assert done.one("distance", init_std=1000, max_epochs=5) < 0.001


def test_error_falls_by_a_factor_of_1_minus_lr_squared_a_step(exercise):
    done = exercise("lr")
    excess = [done.one("train/mse", lr=0.003, max_epochs=epochs) - 1e-4 for epochs in (1, 2, 4, 8)]
    rates = [math.log(a / b) / steps for a, b, steps in zip(excess, excess[1:], (100, 200, 400), strict=False)]
    assert rates == pytest.approx([-2 * math.log(1 - 0.003)] * 3, rel=0.05)
    floor = done.rows[0]["noise_floor"]
    assert {done.one("train/mse", lr=lr, max_epochs=16) < 1.05 * floor for lr in (0.01, 0.03, 0.1)} == {True}
    assert all("1.33 is the largest stable one" in row["refused"] for row in done.all if row["model.lr"] == 3)


def test_dwelling_distance_falls_as_the_root_of_the_batch_size(exercise):
    done = exercise("batch_size")
    rows = [row for row in done.rows if row["data.batch_size"] >= 16]
    found, error = slope([row["data.batch_size"] for row in rows], [row["distance"] for row in rows])
    assert abs(found + 0.5) < 2 * error < 0.1
    assert f"as batch_size to the power {found:.2f}" in done.answer
    for B in (16, 64, 256, 1024):  # lr / 2 times the variance of the gradient, in each of 20 directions
        assert done.mean("distance", batch_size=B) == pytest.approx(math.sqrt(20 * 0.05 / 2 / B) * 0.01, rel=0.25)


def test_sum_at_a_tenth_of_lr_takes_the_steps_of_the_mean(exercise):
    done = exercise("reduction")
    for lr in (0.0003, 0.001, 0.003, 0.01):
        of_sum, of_mean = done.of(reduction="sum", lr=lr), done.of(reduction="mean", lr=round(10 * lr, 4))
        for name in ("weight/x0", "weight/x1", "bias"):
            assert of_sum[0][name] == pytest.approx(of_mean[0][name], abs=1e-5)
    (refused,) = [row for row in done.all if row["refused"]]
    assert (refused["model.reduction"], refused["model.lr"]) == ("sum", 0.1)
    guard = float(refused["refused"].split("where ")[1].split()[0])
    assert guard == pytest.approx(1.32 / 2 / 10, rel=0.01)  # half, for the squared error is whole; by rows


def test_outlier_moves_the_squared_loss_alone(exercise):
    done = exercise("robust_loss")
    for loss in ("huber", "absolute"):
        assert done.one("error", loss=loss, outliers=1) < 0.003
    X, y = (tensor.double().numpy() for tensor in Perturbed(outliers=1).raw("val"))
    w0, w1, b = least_squares(Perturbed(outliers=1))
    rmse = np.sqrt(np.mean((X @ [w0, w1] + b - y[:, 0]) ** 2))
    assert rmse > 10
    assert done.one("val/rmse", loss="squared", outliers=1) == pytest.approx(rmse, rel=0.5)  # SGD lags behind it


def test_gradient_is_that_of_the_last_mini_batch(exercise):
    done = exercise("gradient")
    before, last = done.of(max_steps=299)[0], done.of(max_steps=300)[0]
    X, y = (tensor.double().numpy() for tensor in Perturbed().raw("train"))
    rows = permutation(1000, seed=0, epoch=2)[-10:].numpy()
    Z = np.column_stack([X[rows], np.ones(10)])
    theta = [before["weight/x0"], before["weight/x1"], before["bias"]]
    expected = Z.T @ (Z @ theta - y[rows, 0]) / 10
    found = [last[f"gradient/{name}"] for name in ("x0", "x1", "bias")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert last["gradient"] == pytest.approx(np.linalg.norm(expected), abs=1e-6)
    assert f"from {before['weight/x0']:.6f} to {before['weight/x0'] - 0.03 * found[0]:.6f}" in done.answer


@pytest.mark.parametrize("order", ["drawn", "malicious"])
def test_order_of_the_rows_is_taken(exercise, order):
    done = exercise("order")
    data = Perturbed(noise_std=1, order=order)
    Z, y = (tensor.double().numpy() for tensor in data.raw("train"))
    Z = np.column_stack([Z, np.ones(len(Z))])
    theta = np.append(0.01 * torch.randn(2, generator=torch.Generator().manual_seed(0)).double().numpy(), 0.0)
    for start in [*range(0, 1000, 10)] * 3:
        rows = slice(start, start + 10)
        theta -= 0.03 * Z[rows].T @ (Z[rows] @ theta - y[rows, 0]) / 10
    (row,) = done.of(order=order, seed=0)
    assert [row["weight/x0"], row["weight/x1"], row["bias"]] == pytest.approx(theta, abs=1e-4)


def test_malicious_order_breaks_sgd_and_no_other(exercise):
    done = exercise("order")
    noise = [statistics.NormalDist().inv_cdf(1 - (k + 0.5) / 100) for k in range(100)]  # of the k-th last mini-batch
    theory = math.fsum(0.03 * 0.97**k * noise[k] for k in range(100))
    assert done.one("theory", order="malicious", seed=0) == pytest.approx(theory, abs=5e-4)
    assert done.mean("error/bias", order="malicious") == pytest.approx(theory, rel=0.1)
    for order in ("drawn", "shuffled"):
        assert abs(done.mean("error/bias", order=order)) < 0.1


def test_error_falls_as_the_root_of_the_number_of_rows(exercise):
    done = exercise("num_train")
    rows = [row for row in done.rows if row["data.num_train"] >= 20]
    found, error = slope([row["data.num_train"] for row in rows], [row["error"] for row in rows])
    assert abs(found + 0.5) < 2 * error < 0.1
    assert f"as n to the {found:.2f} ± " in done.answer
    for seed, n in ((0, 5), (1, 50), (2, 10_000)):
        (row,) = done.of(seed=seed, num_train=n)
        error = least_squares(Perturbed(seed=seed, num_train=n)) - [2, -3.4, 4.2]
        assert row["error"] == pytest.approx(np.linalg.norm(error), rel=1e-4)
        assert row["abs_error_bias"] == pytest.approx(abs(error[2]), rel=1e-4)


def test_equal_columns_keep_the_difference_they_started_with(exercise):
    done = exercise("rank")
    for seed, row in enumerate(done.rows):
        start = torch.randn(2, generator=torch.Generator().manual_seed(seed))
        assert row["weight/x0"] - row["weight/x1"] == pytest.approx(float(start[0] - start[1]), abs=1e-5)
        assert row["weight/x0"] + row["weight/x1"] == pytest.approx(2 - 3.4, abs=1e-3)


def test_noise_on_x_attenuates(exercise):
    done = exercise("feature_noise")
    for noise in (0, 0.25, 0.5, 1, 2):
        assert done.one("weight/x0", correlation=0, feature_noise=noise) == pytest.approx(2 / (1 + noise**2), abs=0.03)
    for noise in (0.25, 0.5, 1, 2):
        found = [done.one(f"weight/{name}", correlation=1, feature_noise=noise) for name in ("x0", "x1")]
        assert found == pytest.approx([(2 - 3.4) / (2 + noise**2)] * 2, abs=0.03)
    (refused,) = [row for row in done.all if row["refused"]]
    assert refused["refused"].startswith("the coefficients are not unique: column 'x1' follows linearly from 'x0'.")


def test_absolute_loss_is_better_under_laplace_noise_alone(exercise):
    done = exercise("laplace")
    ratio = {
        noise: done.mean("error", noise=noise, loss="absolute") / done.mean("error", noise=noise, loss="squared")
        for noise in ("normal", "laplace")
    }
    assert ratio == pytest.approx({"normal": math.sqrt(math.pi / 2), "laplace": math.sqrt(0.5)}, rel=0.1)
    truth = [1] * 20 + [4.2]
    data = Perturbed(noise="laplace", noise_std=1, true_weight=[1] * 20)
    expected = np.linalg.norm(least_squares(data) - truth)
    assert done.one("error", noise="laplace", loss="squared", seed=0) == pytest.approx(expected, rel=0.05)


def test_absolute_loss_needs_an_lr_that_falls(exercise):
    done = exercise("lr_decay")
    assert min(row["error"] for row in done.of(gamma=1)) > 0.02
    errors = [done.one("error", gamma=0.5, max_epochs=epochs) for epochs in (2, 4, 6, 8)]
    assert all(later < earlier / 1.9 for earlier, later in pairwise(errors))


def test_penalty_shrinks_by_n_over_n_plus_lambda(exercise):
    for row in exercise("ridge").rows:
        n, penalty = 100_000, row["model.ridge"]
        assert row["weight/x0"] == pytest.approx(2 * n / (n + penalty), rel=0.01)
        assert row["weight/x1"] == pytest.approx(-3.4 * n / (n + penalty), rel=0.01)


def test_best_penalty_is_that_of_the_prior(exercise):
    done = exercise("weight_decay")
    penalties = (0.1, 1, 4, 16, 64, 256, 1000)
    train, val = ([done.mean(f"{part}/mse", ridge=penalty) for penalty in penalties] for part in ("train", "val"))
    assert train == sorted(train)
    assert penalties[int(np.argmin(val))] == 16 == 1 / 0.25**2
    assert f"to {min(val):.2f} at λ = 16" in done.answer
