import numpy as np
import torch
from sklearn.metrics import mean_squared_error, r2_score
from torchmetrics.regression import MeanSquaredError

from linreg_pl.metrics.scores import Scores
from tests.support.metric_tester import MetricTester


class TestScores(MetricTester):
    """Half squared errors as the model's own loss; the target's mean is large."""

    rtol = 1e-8
    target_mean = 1e6

    def make(self):
        return Scores()

    def batches(self):
        random = np.random.default_rng(0)
        batches = []
        for count in (10, 1, 7, 10, 3):
            y = self.target_mean + random.normal(size=(count, 1))
            y_hat = y + 0.1 * random.normal(size=(count, 1))
            batches.append((torch.tensor(y_hat), torch.tensor(y), torch.tensor(((y_hat - y) ** 2).sum() / 2)))
        return batches

    def join(self, batches):
        y_hat, y, loss_sum = zip(*batches, strict=True)
        return torch.cat(y_hat), torch.cat(y), torch.stack(loss_sum).sum()

    def reference(self, y_hat, y, loss_sum):
        mse = mean_squared_error(y, y_hat)
        return {"loss": mse / 2, "mse": mse, "rmse": mse**0.5, "r2": r2_score(y, y_hat)}

    def test_mse_is_that_of_torchmetrics(self):
        metric, theirs = self.make(), MeanSquaredError().set_dtype(torch.float64)
        for y_hat, y, loss_sum in self.batches():
            metric.update(y_hat, y, loss_sum)
            theirs.update(y_hat, y)
        np.testing.assert_allclose(metric.compute()["mse"], theirs.compute(), rtol=1e-12)

    def test_new_metric_has_no_scores(self):
        metric = self.make()
        metric.update(torch.empty(0, 1), torch.empty(0, 1), torch.tensor(0.0))
        assert metric.compute() == {}
