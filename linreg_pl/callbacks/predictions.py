"""Writes predictions as they come, and joins them when all are there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import numpy as np

from linreg_pl.data.rows import Batch

if TYPE_CHECKING:
    import pyarrow.parquet as pq


class Predictions(L.Callback):
    """Writes ``predictions.parquet``: the row's number in the table, from 0, and its prediction.

    Every process writes its share of a batch as one row group of a file of its own. In
    the end process 0 joins them, a batch at a time, in the order of the table.

    Args:
        folder: where the file goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: pq.ParquetWriter | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open this process's file."""
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema({"row": pa.int64(), "prediction": pa.float64()})
        self._writer = parquet.ParquetWriter(self._part(trainer.global_rank), schema)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write this process's share of a batch."""
        import pyarrow as pa

        assert isinstance(batch, Batch)
        assert self._writer is not None
        rows = batch.rows
        assert isinstance(rows, slice), "rows are predicted in order"
        columns = {
            "row": np.arange(rows.start, rows.stop, rows.step),
            "prediction": outputs.reshape(-1).double().cpu().numpy(),
        }
        self._writer.write_table(pa.table(columns), row_group_size=max(len(columns["row"]), 1))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Join the files of all processes."""
        assert self._writer is not None
        self._writer.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            path = self.folder / "predictions.parquet"
            count = self._join(trainer.world_size, path)
            print(f"{count} predictions in {path}", flush=True)

    def _join(self, world_size: int, path: Path) -> int:
        import pyarrow as pa
        from pyarrow import parquet

        files = [parquet.ParquetFile(self._part(rank)) for rank in range(world_size)]
        whole = self._part(world_size)
        with parquet.ParquetWriter(whole, files[0].schema_arrow) as writer:
            for batch in range(files[0].num_row_groups):
                shares = [file.read_row_group(batch) for file in files]
                writer.write_table(pa.concat_tables(shares).sort_by("row"))
        count: int = sum(file.metadata.num_rows for file in files)
        os.replace(whole, path)
        for rank in range(world_size):
            self._part(rank).unlink()
        return count

    def _part(self, rank: int) -> Path:
        return self.folder / f"predictions.{rank}.tmp"
