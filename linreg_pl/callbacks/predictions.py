"""Writes predictions as they come, and joins them when all are there."""

import glob
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import numpy as np

from linreg_pl.data.base import data_of
from linreg_pl.data.batch import Batch
from linreg_pl.errors import InputError
from linreg_pl.files import commit
from linreg_pl.functional.inference import Inference, infer
from linreg_pl.tables.places import is_uri, locate, readable, upload

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

ABANDONED = 3600  # seconds since the last block


class Predictions(L.Callback):
    """Writes the predictions of a table, a row for each of its rows, in their order.

    ``row`` is the row's number in the table, from 0; the id columns follow, then ``prediction`` and,
    where the checkpoint holds the optimum, ``standard_error`` of a new observation and its interval from
    ``low`` to ``high``. They are null where a value is missing.

    Every process writes its share into a file of its own. In the end process 0 joins them, a
    block at a time, under the final name; a file elsewhere, such as ``s3://bucket/p.parquet``, is joined here first.

    Args:
        path: the file; its ending, .parquet or .csv, tells the format.
        confidence_level: probability that an interval covers a new observation.
        folder: of the files of the processes if the path is elsewhere; all processes must see it.
    """

    def __init__(self, path: Path | str, confidence_level: float = 0.95, folder: Path | None = None) -> None:
        with readable(str(path)):
            self.place = locate(str(path), "--predictions") if is_uri(str(path)) else None
        path = Path(path) if self.place is None else (folder or Path()) / Path(self.place.path).name
        if path.suffix.lower() not in (".parquet", ".pq", ".csv"):
            raise InputError(f"--predictions {path}: must end in .parquet or .csv")
        if not path.parent.is_dir():
            raise InputError(f"--predictions {path}: there is no folder {path.parent}")
        if self.place is not None:
            upload(None, self.place)
        self.path = path
        self.confidence_level = confidence_level
        self._run = 0
        self._writer: parquet.ParquetWriter | None = None
        self._inference: Inference | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Agree on names that no other command uses, and find out whether the predictions have standard errors."""
        self._run = trainer.strategy.broadcast(os.getpid())
        if trainer.is_global_zero:
            for left in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
                if left.stat().st_mtime < time.time() - ABANDONED:  # by a command that was killed
                    left.unlink(missing_ok=True)
        data = data_of(trainer)
        if data is not None and not pl_module.biased_objective:
            self._inference = infer(data.summary.optimum(pl_module.has_bias), self.confidence_level)
            if data.weighted and not data.predicts_weighted and trainer.is_global_zero and self._inference is not None:
                print("the rows have no weights: the intervals are those of rows with the mean weight", flush=True)
            if data.summary.covariance is not None and trainer.is_global_zero:
                print("the intervals are those for errors of equal variance, whatever --covariance was", flush=True)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write this process's share of a block."""
        import pyarrow as pa
        from pyarrow import parquet

        assert isinstance(batch, Batch)
        assert isinstance(batch.rows, slice), "rows are predicted in order"
        prediction = outputs.reshape(-1).double().cpu()
        columns: dict[str, Any] = {"row": np.arange(batch.rows.start, batch.rows.stop)}
        if batch.ids is not None:
            columns |= dict(zip(batch.ids.schema.names, batch.ids.columns, strict=True))
        columns["prediction"] = _nullable(prediction.numpy())
        if self._inference is not None:
            weight = None if batch.weight is None else batch.weight.cpu()
            error = self._inference.prediction_standard_errors(batch.X.cpu(), weight)
            margin = self._inference.t_quantile * error
            columns["standard_error"] = _nullable(error.numpy())
            columns["low"], columns["high"] = (_nullable((prediction + d).numpy()) for d in (-margin, margin))
        table = pa.table(columns)
        if self._writer is None:
            self._require_writable(table.schema)
            self._writer = parquet.ParquetWriter(self._part(trainer.global_rank), table.schema)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def _require_writable(self, schema: "pa.Schema") -> None:
        """Find out before the first row whether CSV can hold the id columns."""
        import pyarrow as pa
        from pyarrow import csv

        try:
            if self.path.suffix.lower() == ".csv":
                csv.write_csv(schema.empty_table(), pa.BufferOutputStream())
        except pa.ArrowException as error:
            reason = f"CSV cannot hold --data.ids ({error}); use .parquet"
            raise InputError(f"--predictions {self.path}: {reason}") from error

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Join the files of all processes."""
        if self._writer is not None:
            self._writer.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            count = self._join(trainer.world_size)
            print(f"{count} predictions in {self.place.name if self.place else self.path}", flush=True)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave nothing of predictions that came to no end, also of a process that was killed."""
        if self._writer is not None:
            self._writer.close()
        for number in range(trainer.world_size + 1):
            self._part(number).unlink(missing_ok=True)

    def _join(self, world_size: int) -> int:
        from pyarrow import csv, parquet

        parts = [path for rank in range(world_size) if (path := self._part(rank)).exists()]
        files = [parquet.ParquetFile(part) for part in parts]
        blocks = {}  # by the numbers of their first rows
        for file in files:
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                if group.num_rows:
                    blocks[group.column(0).statistics.min] = file, number
        whole = self._part(world_size)
        open_writer = csv.CSVWriter if self.path.suffix.lower() == ".csv" else parquet.ParquetWriter
        with open_writer(whole, files[0].schema_arrow) as writer:
            for _, (file, number) in sorted(blocks.items()):
                writer.write_table(file.read_row_group(number))
        for file in files:
            file.close()  # on Windows it could not be removed
        if self.place is None:
            commit(whole, self.path)
        else:
            upload(whole, self.place)
            parts.append(whole)
        for part in parts:
            part.unlink()
        return sum(file.metadata.num_rows for file in files)

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f".{self.path.name}.{self._run}.{rank}.tmp")


def _nullable(values: Any) -> "pa.Array":
    import pyarrow as pa

    return pa.array(values, from_pandas=True)  # nan becomes null
