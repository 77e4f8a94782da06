"""Tables larger than memory with any Trainer."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from linreg_pl import Fused, Table
from tests.lightning import own

pytestmark = own.NOISE


@pytest.fixture
def path(tmp_path):
    """A table of more than a MiB of training rows."""
    random = np.random.default_rng(0)
    X = random.normal(5, 3, size=(150_000, 2))
    columns = {"a": X[:, 0], "b": X[:, 1], "y": X @ [1.0, -2.0] + random.normal(size=len(X))}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=30_000)
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("kind", own.TRAINERS)
@pytest.mark.parametrize("lr", [0.01, "auto"])
def test_a_fit_that_goes_on_reads_the_table_once(path, tmp_path, monkeypatch, kind, lr):
    def fit(folder, max_epochs, ckpt_path=None):
        model, data = own.model(Fused, lr=lr), Table(str(path), "y", memory=1)
        readings, pieces = [], data.source.pieces
        monkeypatch.setattr(data.source, "pieces", lambda *names: readings.append(names) or pieces(*names))
        trainer = own.trainer(kind, max_epochs, enable_checkpointing=True, default_root_dir=tmp_path / folder)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        assert data.streamed("train")
        assert len(readings) == 1
        data.windows().close()
        return own.weights(model), trainer.checkpoint_callback.best_model_path

    whole, _ = fit("whole", 2)
    _, half = fit("cut", 1)
    again, _ = fit("cut", 2, half)
    assert again == whole
    assert torch.tensor(whole).isfinite().all()
