import numpy as np
import torch

from linreg_pl.functional.least_squares import condition_number, num_rows, solve
from linreg_pl.metrics.least_squares import TriangularFactor
from tests.support.metric_tester import MetricTester


class TestTriangularFactor(MetricTester):
    """All that is read from the factor, of columns with unequal scales and a large mean."""

    rtol = 1e-9
    scales, means = np.array([1e-3, 1.0, 50.0]), np.array([0.0, 1e4, 3.0])

    def make(self):
        return TriangularFactor(num_features=3)

    def batches(self):
        random = np.random.default_rng(0)
        batches = []
        for count in (20, 1, 7, 2, 11):  # some with fewer rows than columns
            X = self.means + self.scales * random.normal(size=(count, 3))
            y = X @ [[300.0], [2.0], [-0.1]] + 5 + random.normal(size=(count, 1))
            batches.append((torch.tensor(X), torch.tensor(y)))
        return batches

    def value(self, metric):
        R = metric.compute()
        solution = solve(R)
        return {
            "rows": num_rows(R),
            "theta": solution.theta,
            "residual": solution.factor[-1, -1] ** 2,
            "condition number": condition_number(R),
        }

    def reference(self, X, y):
        A, y = np.column_stack([np.ones(len(X)), X]), y.numpy()[:, 0]
        theta, (residual,), _, singular = np.linalg.lstsq(A, y)
        return {
            "rows": len(y),
            "theta": theta,
            "residual": residual,
            "condition number": singular[0] / singular[-1],
        }

    def test_float32_rows_are_summed_in_float64(self):
        batches = [tuple(part.float() for part in batch) for batch in self.batches()]
        metric = self.updated(batches)
        assert metric.compute().dtype == torch.float64
        self.check(self.value(metric), [tuple(part.double() for part in batch) for batch in batches])

    def test_new_metric_has_no_rows(self):
        metric = self.make()
        metric.update(torch.empty(0, 3), torch.empty(0, 1))
        R = metric.compute()
        assert (R.shape, num_rows(R)) == ((5, 5), 0)

    def test_state_is_one_tensor_however_many_rows(self):
        metric = self.updated(self.batches() * 3)
        assert [(name, tuple(state.shape)) for name, state in metric.metric_state.items()] == [("summary", (6, 5))]
