"""Covariance of the optimum's coefficients, from one more pass over the training rows that the processes share."""

from collections.abc import Callable
from itertools import islice

import torch

from linreg_pl.data.batch import Batch
from linreg_pl.data.prepared import BLOCKS_PER_STEP, PreparedRows, as_shifted
from linreg_pl.data.threads import parallel_map
from linreg_pl.errors import InputError
from linreg_pl.functional.covariance import ClusterSums, Scores, merge_clusters, merge_scores


def find_covariance(data: PreparedRows, kind: str, bias: bool) -> None:
    """Find the covariance and leave it in the data's summary; nothing where the optimum is not unique.

    Args:
        data: training rows; all processes must call this.
        kind: "HC0" to "HC3", or "cluster"; see `linreg_pl.functional.covariance`.
        bias: whether there is an intercept.

    Raises:
        InputError: there is one cluster only, or more than fit into memory.
    """
    data.find_factor()
    solution, factor = data.summary.optimum(bias), data.summary.shifted
    if factor is None or solution is None or solution.num_rows <= len(solution.theta):
        return
    scores = Scores(solution, kind, as_shifted(factor))
    if kind == "cluster":
        data.carries_clusters = True
        try:
            data.summary.covariance = scores.clustered_covariance(_cluster_sums(data, scores), data.clusters)
        finally:
            data.carries_clusters = False
        return
    of_blocks = parallel_map(data.local_blocks("train"), lambda make: scores.factor(*make()))
    total = next(of_blocks)
    while some := list(islice(of_blocks, BLOCKS_PER_STEP)):
        total = merge_scores(torch.stack([total, *some]))
    data.summary.covariance = scores.covariance(merge_scores(torch.stack(data.of_all_processes(total))))


def _cluster_sums(data: PreparedRows, scores: Scores) -> list[ClusterSums]:
    def summed(make: Callable[[], Batch]) -> list[ClusterSums]:
        batch = make()
        keys = [] if batch.ids is None else [torch.tensor(key.to_numpy()) for key in batch.ids.columns]
        return scores.cluster_sums(keys or [torch.empty(0, dtype=torch.int64)] * len(data.clusters), *batch)

    found: list[ClusterSums] = []
    for sums in parallel_map(data.local_blocks("train"), summed):
        found = [merge_clusters(pair) for pair in zip(found, sums, strict=True)] if found else sums
        needed = sum(some.sums.numel() for some in found) / 2**17
        if needed > data.memory:
            raise InputError(
                f"--data.clusters: the sums over {max(len(some.keys) for some in found):,} clusters need"
                f" {needed:.0f} MiB or more; raise --data.memory, or take larger clusters"
            )
    found = [merge_clusters(parts) for parts in zip(*data.of_all_processes(found), strict=True)]
    for name, some in zip(data.clusters, found, strict=False):
        if len(some.keys) < 2:
            raise InputError(f"--data.clusters: {name!r} has one cluster only, which tells no variance")
    return found
