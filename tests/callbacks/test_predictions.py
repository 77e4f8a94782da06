import types

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer
from pyarrow import csv, parquet

from linreg_pl.callbacks import Predictions
from linreg_pl.data import Table
from linreg_pl.data.batch import Batch
from linreg_pl.engine.quiet import quieten
from linreg_pl.errors import InputError
from linreg_pl.models import Scratch
from tests.support.commands import no_trace_left

ROWS, BATCH_SIZE = 23, 5


def trainer(rank, world_size):
    """What the callback asks of a Trainer."""
    strategy = types.SimpleNamespace(barrier=lambda: None, broadcast=lambda value: value)
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
            shown = torch.empty(len(rows), 2), torch.empty(len(rows), 1)
            batch = Batch(*shown, rows=slice(start, start + len(rows)))
            predicted = (rows.float() / 7).reshape(-1, 1)
            callback.on_predict_batch_end(trainers[rank], None, predicted, batch, index)
    for rank in reversed(range(world_size)):  # process 0 joins when the others are done
        callbacks[rank].on_predict_end(trainers[rank], None)
    table = parquet.read_table(tmp_path / "predictions.parquet")
    assert table["row"].to_pylist() == list(range(ROWS))
    np.testing.assert_allclose(table["prediction"], np.arange(ROWS) / 7, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
    assert capsys.readouterr().out == f"{ROWS} predictions in {tmp_path / 'predictions.parquet'}\n"


@pytest.fixture
def table(tmp_path):
    """A table of two row groups."""
    columns = {"a": np.arange(8.0), "b": np.arange(8.0) ** 2, "y": np.arange(8.0)}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet", row_group_size=4)
    return Table(str(tmp_path / "table.parquet"), target="y", standardize=False)


def predict(model, data, callback):
    """Predict as the command line does."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with no_trace_left():
        quieten()
        Trainer(accelerator="cpu", callbacks=[callback], **quiet).predict(model, data, return_predictions=False)


@pytest.mark.parametrize("interruption", [InputError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_interrupted_predictions_leave_the_old_file(tmp_path, table, suffix, interruption):
    path = tmp_path / f"predictions{suffix}"
    path.write_text("old")
    model, seen = Scratch(2), []

    def predict_step(batch, batch_idx):
        seen.append(sorted(found.name for found in tmp_path.iterdir()))
        if len(seen) == 2:
            raise interruption("in the second batch")
        return Scratch.predict_step(model, batch, batch_idx)

    model.predict_step = predict_step
    with pytest.raises((interruption, SystemExit)):  # the Trainer's answer to Ctrl-C is to exit
        predict(model, table, Predictions(path))
    assert len(seen) == 2
    assert len(seen[1]) == 3  # predictions of the first batch were on the disk
    assert path.read_text() == "old"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(["table.parquet", path.name])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_predictions_replace_the_old_file(tmp_path, table, suffix):
    path = tmp_path / f"predictions{suffix}"
    path.write_text("old")
    model = Scratch(2, init_std=1.0)
    predict(model, table, Predictions(path))
    found = (parquet.read_table if suffix == ".parquet" else csv.read_csv)(path)
    X, _ = table.raw("predict")
    np.testing.assert_allclose(found["prediction"], model(X.float()).detach()[:, 0], rtol=1e-5)
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(["table.parquet", path.name])
