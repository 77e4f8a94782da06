import types

import numpy as np
import pytest
import torch
from pyarrow import parquet

from linreg_pl.callbacks import Predictions
from linreg_pl.data.rows import Batch
from linreg_pl.models import Scratch

ROWS, BATCH_SIZE = 23, 5


def trainer(rank, world_size):
    """What the callback asks of a Trainer."""
    strategy = types.SimpleNamespace(barrier=lambda: None)
    return types.SimpleNamespace(
        global_rank=rank, world_size=world_size, is_global_zero=rank == 0, strategy=strategy, datamodule=None
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_of_all_processes_are_joined_in_order(tmp_path, capsys, world_size):
    callbacks = [Predictions(tmp_path / "predictions.parquet") for _ in range(world_size)]
    trainers = [trainer(rank, world_size) for rank in range(world_size)]
    for rank, callback in enumerate(callbacks):
        callback.on_predict_start(trainers[rank], Scratch(2))
        for index, start in enumerate(range(rank * BATCH_SIZE, ROWS, world_size * BATCH_SIZE)):
            rows = torch.arange(start, min(start + BATCH_SIZE, ROWS))
            batch = Batch(
                torch.empty(len(rows), 2), torch.empty(len(rows), 1), len(rows), slice(start, start + len(rows))
            )
            predicted = (rows.float() / 7).reshape(-1, 1)
            callback.on_predict_batch_end(trainers[rank], None, predicted, batch, index)
    for rank in reversed(range(world_size)):  # process 0 joins when the others are done
        callbacks[rank].on_predict_end(trainers[rank], None)
    table = parquet.read_table(tmp_path / "predictions.parquet")
    assert table["row"].to_pylist() == list(range(ROWS))
    np.testing.assert_allclose(table["prediction"], np.arange(ROWS) / 7, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
    assert capsys.readouterr().out == f"{ROWS} predictions in {tmp_path / 'predictions.parquet'}\n"


def test_interrupted_predictions_leave_the_old_file(tmp_path):
    (tmp_path / "predictions.parquet").write_text("old")
    callback = Predictions(tmp_path / "predictions.parquet")
    callback.on_predict_start(trainer(0, 1), Scratch(1))
    batch = Batch(torch.empty(2, 1), torch.empty(2, 1), 2, slice(0, 2))
    callback.on_predict_batch_end(trainer(0, 1), None, torch.ones(2, 1), batch, 0)
    assert (tmp_path / "predictions.parquet").read_text() == "old"
