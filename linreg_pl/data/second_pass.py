"""What one more pass over the training rows tells of the optimum: its covariance and what its residuals look like."""

from collections.abc import Callable
from typing import NamedTuple

from linreg_pl.data.batch import Batch
from linreg_pl.data.prepared import PreparedRows
from linreg_pl.data.threads import parallel_map
from linreg_pl.errors import InputError
from linreg_pl.functional.covariance import CovarianceKind, ScoreSums
from linreg_pl.functional.diagnostics import Diagnostics
from linreg_pl.functional.least_squares import explains_exactly
from linreg_pl.functional.whitening import WhitenedBlock, Whitening


class Sums(NamedTuple):
    """Sums over some rows, of what is wanted."""

    scores: ScoreSums | None
    residuals: Diagnostics | None

    def merge(self, other: "Sums") -> None:
        """Add those over other rows."""
        for mine, theirs in zip(self, other, strict=True):
            if mine is not None:
                mine.merge(theirs)  # type: ignore[arg-type]


def look_again(data: PreparedRows, kind: CovarianceKind, bias: bool, diagnostics: bool = False) -> None:
    """Pass over the training rows again and leave what is found in the data's summary.

    Nothing is found where the optimum is not unique.

    Args:
        data: training rows; all processes must call this.
        kind: of the covariance; "classical" needs no pass.
        bias: whether there is an intercept.
        diagnostics: whether they are wanted.

    Raises:
        InputError: there is one cluster only, or more than fit into memory.
    """
    factor = data.find_factor()
    solution, shifted = data.summary.optimum(bias), data.summary.shifted
    if shifted is None or solution is None or solution.num_rows <= len(solution.theta):
        return
    whitening, clusters = Whitening(solution, shifted), data.clusters if kind == "cluster" else ()
    mse = float(solution.factor[-1, -1].square()) / solution.num_rows
    diagnostics = diagnostics and not explains_exactly(factor, bias, mse)
    if kind == "classical" and not diagnostics:
        return

    def none() -> Sums:
        scores = None if kind == "classical" else ScoreSums(kind, len(solution.theta), len(clusters))
        return Sums(scores, Diagnostics(whitening, not data.streamed("train")) if diagnostics else None)

    def of_block(make: Callable[[], Batch]) -> Sums:
        batch, (scores, residuals) = make(), (found := none())
        numbers, keys = batch.numbers_and_keys()
        block = WhitenedBlock(whitening, *batch, leverages=diagnostics or kind in ("HC2", "HC3"))
        for rows, q in block:
            if residuals is not None:
                residuals.add(block, rows, q)
            if scores is not None:
                scores.add(block, rows, q, keys)
        if residuals is not None:
            residuals.end(block, numbers)
        return found

    total = none()
    data.carried = clusters if clusters or diagnostics else None
    try:
        for found in parallel_map(data.local_blocks("train"), of_block):
            total.merge(found)
            _require_memory(total.scores, data.memory)
    finally:
        data.carried = None
    total, *others = data.of_all_processes(total)
    for found in others:
        total.merge(found)
    if total.scores is not None:
        for name, some in zip(clusters, total.scores.clusters, strict=False):
            if len(some.keys) < 2:
                raise InputError(f"--data.clusters: {name!r} has one cluster only, which tells no variance")
        data.summary.covariance = total.scores.covariance(whitening, clusters)
    if total.residuals is not None:
        data.summary.diagnostics = total.residuals.result()


def _require_memory(scores: ScoreSums | None, memory: float) -> None:
    clusters = [] if scores is None else scores.clusters
    needed = sum(some.sums.numel() for some in clusters) / 2**17
    if needed > memory:
        raise InputError(
            f"--data.clusters: the sums over {max(len(some.keys) for some in clusters):,} clusters need"
            f" {needed:.0f} MiB or more; raise --data.memory, or take larger clusters"
        )
