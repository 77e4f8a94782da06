import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score

from linreg_pl.functional.scores import merge_summaries, scores, summarize_predictions


def rows(count, target_mean=0.0, seed=0):
    random = np.random.default_rng(seed)
    y = target_mean + random.normal(size=(count, 1))
    return y + 0.1 * random.normal(size=(count, 1)), y


def summary(y_hat, y):
    y_hat, y = torch.as_tensor(y_hat), torch.as_tensor(y)
    return summarize_predictions(y_hat, y, (y_hat - y).abs().sum())


def assert_scores(result, y_hat, y, rtol=1e-12):
    assert result["loss"] == pytest.approx(np.abs(y_hat - y).mean(), rel=rtol)
    assert result["mse"] == pytest.approx(mean_squared_error(y, y_hat), rel=rtol)
    assert result["rmse"] == pytest.approx(mean_squared_error(y, y_hat) ** 0.5, rel=rtol)
    assert result["r2"] == pytest.approx(r2_score(y, y_hat), rel=rtol)


def test_summary_holds_the_documented_sums():
    y_hat, y = rows(9)
    expected = [9, np.abs(y_hat - y).sum(), ((y - y_hat) ** 2).sum(), y.mean(), ((y - y.mean()) ** 2).sum()]
    np.testing.assert_allclose(summary(y_hat, y), expected, rtol=1e-13)


def test_scores_are_those_of_scikit_learn():
    y_hat, y = rows(100)
    assert_scores(scores(summary(y_hat, y)), y_hat, y)


@pytest.mark.parametrize("cuts", [[50], [1, 2, 3], [0, 0, 99, 100]])
def test_merged_summaries_give_the_whole(cuts):
    y_hat, y = rows(100, target_mean=3.0)
    parts = [summary(*part) for part in zip(np.split(y_hat, cuts), np.split(y, cuts), strict=True)]
    assert_scores(scores(merge_summaries(torch.stack(parts))), y_hat, y)


def test_merge_order_does_not_matter():
    y_hat, y = rows(60, target_mean=1e4)
    parts = [summary(y_hat[i : i + 20], y[i : i + 20]) for i in (0, 20, 40)]
    for order in itertools.permutations(parts):
        one_by_one = merge_summaries(torch.stack([merge_summaries(torch.stack(order[:2])), order[2]]))
        assert_scores(scores(one_by_one), y_hat, y, rtol=1e-10)


def test_r2_survives_a_large_target_mean():
    y_hat, y = rows(1000, target_mean=1e8)
    parts = [summary(y_hat[i : i + 10], y[i : i + 10]) for i in range(0, 1000, 10)]
    total = parts[0]
    for part in parts[1:]:
        total = merge_summaries(torch.stack([total, part]))
    assert_scores(scores(total), y_hat, y, rtol=1e-7)  # float64 at 1e8 resolves 1.5e-8


def test_float32_predictions_are_summed_in_float64():
    y = torch.full((3, 1), 16777216.0)
    result = summarize_predictions(y, y + torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor(0.0))
    assert (result.dtype, result[3].item()) == (torch.float64, 16777218.0)


def test_no_rows_give_no_scores():
    empty = summary(np.empty((0, 1)), np.empty((0, 1)))
    assert empty.tolist() == [0.0] * 5
    assert scores(empty) == {}
    assert scores(merge_summaries(torch.stack([empty, empty]))) == {}


def test_empty_summaries_change_nothing():
    y_hat, y = rows(5, target_mean=2.0)
    empty = torch.zeros(5, dtype=torch.float64)
    assert_scores(scores(merge_summaries(torch.stack([empty, summary(y_hat, y), empty]))), y_hat, y)


def test_constant_target_has_no_r2():
    assert set(scores(summary(np.zeros((4, 1)), np.ones((4, 1))))) == {"loss", "mse", "rmse"}
