"""One test class for every metric: subclass it and say what the metric is and what it should give."""

import multiprocessing
import os
import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torchmetrics import Metric

WORLD_SIZE = 3

Arguments = tuple[Tensor, ...]  # of one update


class MetricTester(ABC):
    """Batched, merged, pickled, cast, and spread over processes, a metric gives what an independent reference gives.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    rtol = 1e-10
    atol = 0.0

    @abstractmethod
    def make(self) -> Metric:
        """Return a new metric."""

    @abstractmethod
    def batches(self) -> list[Arguments]:
        """Arguments of the updates; batches of unequal size, at least four."""

    @abstractmethod
    def reference(self, *joined: Tensor) -> dict[str, Any]:
        """Expected value for the arguments of one update with all rows; independent of this project."""

    def join(self, batches: list[Arguments]) -> Arguments:
        """Arguments of one update with the rows of all batches."""
        return tuple(torch.cat(arguments) for arguments in zip(*batches, strict=True))

    def value(self, metric: Metric) -> dict[str, Any]:
        """What is compared with the reference: by default what the metric computes."""
        return metric.compute()

    def updated(self, batches: list[Arguments]) -> Metric:
        """Return a metric that has seen the batches."""
        metric = self.make()
        for batch in batches:
            metric.update(*batch)
        return metric

    def check(self, value: dict[str, Any], batches: list[Arguments]) -> None:
        """Compare with the reference for these batches."""
        expected = self.reference(*self.join(batches))
        assert value.keys() == expected.keys()
        for name, number in expected.items():
            actual, wanted = (torch.as_tensor(x, dtype=torch.float64) for x in (value[name], number))
            torch.testing.assert_close(actual, wanted, rtol=self.rtol, atol=self.atol, msg=f"{name}: {actual}")

    def test_one_update_with_all_rows(self):
        self.check(self.value(self.updated([self.join(self.batches())])), self.batches())

    def test_batches_give_the_whole(self):
        self.check(self.value(self.updated(self.batches())), self.batches())

    def test_forward_gives_the_batch_and_keeps_the_whole(self):
        metric, batches = self.make(), self.batches()
        for batch in batches:
            metric(*batch)
        self.check(self.value(metric), batches)

    def test_a_batch_without_rows_changes_nothing(self):
        first, *others = self.batches()
        nothing = tuple(argument[:0] if argument.ndim else torch.zeros_like(argument) for argument in first)
        self.check(self.value(self.updated([nothing, first, nothing, *others, nothing])), self.batches())

    def test_merged_metrics_give_the_whole(self):
        first, second, *others = self.batches()
        metric = self.updated([first])
        for part in ([second], others):  # twice: what merged once must merge again
            metric.merge_state(self.updated(part))
        self.check(self.value(metric), self.batches())

    def test_merge_with_an_empty_metric_changes_nothing(self):
        metric = self.updated(self.batches())
        metric.merge_state(self.make())
        self.check(self.value(metric), self.batches())

    def test_reset_forgets(self):
        first, *others = self.batches()
        metric = self.updated([first])
        metric.reset()
        for batch in others:
            metric.update(*batch)
        self.check(self.value(metric), others)

    def test_pickled_metric_goes_on(self):
        first, *others = self.batches()
        metric = pickle.loads(pickle.dumps(self.updated([first])))
        for batch in others:
            metric.update(*batch)
        self.check(self.value(metric), self.batches())

    @pytest.mark.parametrize(
        "cast",
        [
            lambda module: module.to(torch.bfloat16),
            nn.Module.half,
            nn.Module.float,
            lambda module: module["metric"].set_dtype(torch.float32),
        ],
        ids=["bfloat16", "half", "float", "set_dtype"],
    )
    def test_state_stays_float64(self, cast):
        first, *others = self.batches()
        metric = self.updated([first])
        cast(nn.ModuleDict({"metric": metric}))  # as a model casts what it holds
        for batch in others:
            metric.update(*batch)
        assert {state.dtype for state in metric.metric_state.values()} == {torch.float64}
        self.check(self.value(metric), self.batches())

    def test_state_follows_to_another_device(self):
        metric = self.make().to("meta")
        assert {state.device.type for state in metric.metric_state.values()} == {"meta"}

    def test_three_processes_give_the_whole(self, tmp_path):
        multiprocessing.set_forkserver_preload(["sklearn.metrics", "torchmetrics"])  # imported once, not by each
        start_processes(_process, (self, tmp_path), nprocs=WORLD_SIZE, start_method="forkserver")
        for rank in range(WORLD_SIZE):
            shared, lonely, own = torch.load(tmp_path / f"value_{rank}", weights_only=True)
            self.check(shared, self.batches())
            self.check(lonely, self.batches())
            self.check(own, self.batches()[rank::WORLD_SIZE])  # a sync is undone after compute


def _process(rank: int, tester: MetricTester, folder: Path) -> None:
    """Compute over all processes, with the batches dealt out, and with all of them in the last process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=WORLD_SIZE)
    batches = tester.batches()
    dealt = tester.updated(batches[rank::WORLD_SIZE])
    lonely = tester.updated(batches if rank == WORLD_SIZE - 1 else [])
    values = [tester.value(dealt), tester.value(lonely)]
    torch.distributed.destroy_process_group()
    dealt._computed = None
    torch.save([*values, tester.value(dealt)], folder / f"value_{rank}")
