"""Rows prepared for training: their factor, their scaling, and as float32 in memory or in a temporary file."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from linreg_pl.data.batch import Batch, Rows
from linreg_pl.data.copying import Copying
from linreg_pl.data.folds import Folds, GroupKeys
from linreg_pl.data.loaders import Blocks, OneWindow
from linreg_pl.data.parts import Part, RowsInParts
from linreg_pl.data.spill import Spill
from linreg_pl.data.summary import TrainingSummary
from linreg_pl.data.threads import parallel_map
from linreg_pl.data.transform import to_float32
from linreg_pl.errors import as_run
from linreg_pl.functional.factors import merge_folds, merge_shifted, shifted_factor
from linreg_pl.functional.least_squares import num_rows
from linreg_pl.functional.stability import CurvatureMoments, rescaled_lengths, second_moments
from linreg_pl.functional.standardize import Scaling
from linreg_pl.metrics.least_squares import TriangularFactor

Served = Literal["mini-batches", "chunks", "factors"]

BLOCKS_PER_STEP = 16  # of factors: a step of the Trainer takes as long as a block


class PreparedRows(RowsInParts):
    """Training rows with what is known of them, and rows as SGD takes them; the arguments are those of `DataModule`."""

    memory = math.inf  # MiB of rows kept in memory
    clusters: Sequence[str] = ()  # one or two columns; rows with the same value are a cluster
    groups: Sequence[str] = ()  # columns; rows with the same values are in the same fold of a cross-validation
    group_keys: GroupKeys | None = None  # yields the keys of these groups, of all rows
    folds: Folds | None = None  # that factors are wanted of; None for those of all rows
    # Columns of clusters or groups whose keys blocks of training rows carry in `ids`, after the numbers of the rows.
    carried: Sequence[str] | None = None
    _served: Served = "mini-batches"

    def __init__(self, batch_size: int, seed: int, standardize: bool) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.order_seed: int | None = seed  # None keeps the training rows in order
        self.standardize = standardize
        self.summary = TrainingSummary()
        self._scaling: Scaling | None = None
        self._fits = False  # so standardised columns are wanted
        self._rounded: set[str] = set()  # columns that `to_float32` told of
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._rows: dict[Part, Rows] = {}
        self._windows: OneWindow | Spill | None = None
        self._curvature: CurvatureMoments | None = None
        self._factor_of_copy: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: the Trainer, and rows, which can be read again."""
        return vars(self) | dict.fromkeys(("trainer", "_windows", "_curvature", "_factor_of_copy")) | {"_rows": {}}

    def find_factor(self) -> Tensor:
        """Find the triangular factor of the training rows: while they are copied, or by a pass the processes share."""
        if self.summary.factor is None and self._served != "factors" and self.streamed("train"):
            self.windows()
            self.set_factor(self._factor_of_copy)
        if self.summary.factor is None:
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            metric = TriangularFactor(self.num_features, shifted=True).to(device)
            for factor in self.factors("train"):
                metric.update(factor.to(device))
            self.set_factor(metric.compute().cpu())
        assert self.summary.factor is not None
        return self.summary.factor

    def set_factor(self, factor: Tensor | None) -> None:
        """Set the triangular factor of the training rows; errors are those of `TrainingSummary.set_factor`."""
        self.summary.set_factor(factor, [*self.feature_names, self.target_name])

    @property
    def scaling(self) -> Scaling | None:
        """How columns are standardised, learned when it is first needed in a fit; None if they are not."""
        if self.standardize and self._fits and self._scaling is None:
            self.find_factor()
            self._scaling = self.summary.scaling(self.feature_names)
        return self._scaling

    def factors(self, part: Part, folds: Folds | None = None) -> Blocks[Tensor]:
        """Load shifted triangular factors of ``[1 X y]``, each of some blocks of a part, made by several threads.

        There is one for each of the folds, if they are given.
        """
        merge = merge_shifted if folds is None else merge_folds

        def of_block(make: Callable[[], Batch]) -> Tensor:
            return shifted_factor(*make()) if folds is None else folds.factors(make())

        def factors() -> Iterator[Tensor]:
            self.carried = None if folds is None else self.groups
            try:
                of_blocks = parallel_map(self.local_blocks(part), of_block)
                while self._any_process(some := list(islice(of_blocks, BLOCKS_PER_STEP))):  # so all take as many steps
                    yield merge(torch.stack(some or [of_block(self._no_rows)]))
            finally:
                self.carried = None

        return Blocks(factors)

    def streamed(self, part: Part) -> bool:
        """Whether a part is too large to be kept in memory."""
        return self.num_rows(part) * (self.num_features + 1) * 4 > self.memory * 2**20

    def to_float32(self, batch: Batch, scaling: Scaling | None) -> Tensor:
        """Return a block of raw rows as float32, one row after another."""
        return to_float32(batch, scaling, [*self.feature_names, self.target_name], self._rounded, self._tell)

    def _tell(self, message: str) -> None:
        if self.share[0] == 0:
            print(message, flush=True)

    @property
    def _widths(self) -> tuple[int, ...]:
        return (self.num_features, *[1] * (1 + self.weighted))

    def _transformed_blocks(self, part: Part) -> Iterator[Batch]:
        scaling = self.scaling

        def transformed(make: Callable[[], Batch]) -> Batch:
            batch = make()
            X, *others = self.to_float32(batch, scaling).split([column.shape[1] for column in batch], dim=1)
            return batch.with_columns(X, *others, scaling=scaling)

        return parallel_map(self.local_blocks(part), transformed)

    @torch.inference_mode(False)  # whoever asks first: rows of a validation may be wanted for training later
    def rows(self, part: Part) -> Rows:
        """Rows of a part as float32, standardised if asked for, in memory from now on."""
        if part not in self._rows:
            scaling = self.scaling
            # Memory from numpy, which asks for huge pages: random rows are then found half again as fast.
            numbers = torch.from_numpy(np.empty((self.num_rows(part), sum(self._widths)), np.float32))
            start = 0
            for some in parallel_map(self.sampled_blocks(part), lambda make: self.to_float32(make(), scaling)):
                numbers[start : start + len(some)] = some
                start += len(some)
            self._rows[part] = Rows(numbers, self.num_features, scaling=scaling)
        return self._rows[part]

    @torch.inference_mode(False)
    def windows(self) -> OneWindow | Spill:
        """The training rows in windows: one in memory, or many from a file that this machine's processes share."""
        if self._windows is None:
            if self.streamed("train"):
                self._windows = self._copied()
            else:
                self._windows = OneWindow(self.rows("train"), self.order_seed)
        return self._windows

    def _copied(self) -> Spill:
        """Copy the training rows to a file that this machine's processes share, and find their factor meanwhile."""
        path = Path(tempfile.gettempdir(), f"linreg_pl-{self._of_first_process(uuid4().hex)}.rows")
        shape, window_bytes = (self.num_rows("train"), self._widths), int(self.memory * 2**20) // 16
        spill = Spill(path, *shape, self.batch_size, self.seed, window_bytes)
        copying = Copying(self.to_float32, self.standardize)
        self._barrier()  # all have opened the file
        if self.trainer is None or self.trainer.local_rank == 0:
            spill.write(copying.copied(self.sampled_blocks("train")))
        self._barrier()
        found = (copying.factor, copying.scaling, copying.lengths)
        self._factor_of_copy, rough, greatest = self._of_first_process(found)
        if rough is not None:
            if self.summary.factor is None:
                self.set_factor(self._factor_of_copy)
            assert self.scaling is not None
            spill.rescale(rough, self.scaling)
            greatest = rescaled_lengths(greatest, rough, self.scaling)
        spill.greatest_curvature = float(greatest.square().sum())
        if spill.worst_spread > 1.25:
            self._tell(
                f"mini-batches of {self.batch_size} rows are large beside what is in memory at once: if the table is"
                f" sorted, their means spread up to {spill.worst_spread:.1f} times as wide as they should;"
                f" raise --data.memory, or rewrite the table by {as_run('python train.py')} shuffle\n"
            )
        return spill

    @property
    def curvature(self) -> CurvatureMoments:
        """Moments of the curvature of the training rows as SGD takes them, found when they are first asked for.

        Of rows in a file they are found by one process for all, which must all ask.
        """
        windows = self.windows()
        if self._curvature is None:
            shared = isinstance(windows, Spill)
            moments = None if shared and self.share[0] else self._measured(windows.in_order())
            self._curvature = self._of_first_process(moments) if shared else moments
            assert self._curvature is not None
        return self._curvature

    @property
    def mean_curvature(self) -> Tensor:
        """Mean of the curvatures of the training rows as SGD takes them, the intercept as the last."""
        self.windows()  # whose factor is found when they are copied
        first = self._second_moments()
        return self.curvature.mean if first is None else first / self.num_rows("train")

    def _second_moments(self) -> Tensor | None:
        """Return the sum of these curvatures, if the factor of just these rows is known."""
        factor = self.summary.shifted if self._factor_of_copy is None else self._factor_of_copy
        if factor is None or num_rows(factor) != self.num_rows("train"):  # of rows that came before, too
            return None
        return second_moments(factor, self.scaling)

    def _measured(self, pieces: Iterator[Callable[[], Batch]]) -> CurvatureMoments:
        total = CurvatureMoments(self.num_features, self._second_moments())

        def measured(make: Callable[[], Batch]) -> CurvatureMoments:
            rows = make()
            return total.empty().add(rows.X, rows.weight)

        for moments in parallel_map(pieces, measured):
            total.merge(moments)
        return total
