"""This project's models by Lightning's loop and by ours: the same hooks, counts, bits and checkpoints."""

import lightning.pytorch as L
import pytest
import torch

from linreg_pl.data import Synthetic, Table
from linreg_pl.data.batch import Batch, Rows
from linreg_pl.engine.trainer import Trainer
from linreg_pl.models import Concise, Exact, Fused, Scratch
from tests.engine.test_epoch_loop import Keep, Memory, Recorder, plain
from tests.support.commands import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and devices

MODELS = [Scratch, Concise, Fused, Exact]
STEPS = {"limit": {"max_steps": 7, "max_epochs": -1}, "epochs": {"max_epochs": 2}}


class Counting(Recorder):
    """Has a state of its own, which checkpoints hold."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, *arguments):
        self.count += 1
        super().on_train_batch_end(*arguments)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def fit(kind, folder, model, data, checkpoint=None, **options):
    """All that can be seen of a fit."""
    torch.manual_seed(0)  # of the weights to start from
    model = model(data.num_features)
    recorder, logger = Counting(), Memory()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = kind(callbacks=[recorder, Keep(folder)], logger=logger, log_every_n_steps=2, **quiet, **options)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return {
        "seen": [seen | {"arguments": [*map(_numbers, seen["arguments"])]} for seen in recorder.seen],
        "count": recorder.count,
        "coefficients": [part.tolist() for part in model.coefficients()],
        "metrics": plain([trainer.callback_metrics, trainer.progress_bar_metrics]),
        "rows": plain(logger.rows),
        "loops": trainer.fit_loop.state_dict(),
        "checkpoints": {path.name: _content(path) for path in sorted(folder.glob("*.ckpt"))},
    }


def _numbers(argument):
    """A batch, or a chunk of batches, as numbers."""
    if isinstance(argument, Batch):
        return [column.tolist() for column in argument]
    return [part for part in argument if not isinstance(part, Rows)] if isinstance(argument, list) else argument


def _content(path):
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"] = {name: state for name, state in checkpoint["callbacks"].items() if "Keep" not in name}
    return plain(checkpoint)  # paths of other checkpoints left out


def norris(num_val):
    return Table(str(CONFIGS / "norris.csv"), "y", batch_size=7, val_fraction=0.2 if num_val else 0.0)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("num_val", [0, 13])
@pytest.mark.parametrize("make", [lambda n: Synthetic(num_train=103, num_val=n, batch_size=20), norris],
                         ids=["synthetic", "table"])  # fmt: skip
@pytest.mark.parametrize("model", MODELS)
def test_both_loops_do_the_same(tmp_path, model, make, num_val, steps):
    theirs, ours = (
        fit(kind, tmp_path / name, model, make(num_val), **STEPS[steps])
        for name, kind in (("theirs", L.Trainer), ("ours", Trainer))
    )
    assert len(theirs["seen"]) > 5
    assert theirs == ours


@pytest.mark.parametrize("step", [4, 8])  # within the first epoch of six steps, and within the second
@pytest.mark.parametrize("model", [Scratch, Concise])
def test_both_resume_to_the_same_bits(tmp_path, model, step):
    rows = {"num_train": 103, "num_val": 13, "batch_size": 20}
    whole = fit(Trainer, tmp_path / "whole", model, Synthetic(**rows), max_epochs=3)
    (checkpoint,) = (tmp_path / "whole").glob(f"*step={step}.ckpt")
    for name, kind in (("theirs", L.Trainer), ("ours", Trainer)):
        resumed = fit(kind, tmp_path / name, model, Synthetic(**rows), checkpoint, max_epochs=3)
        assert resumed["coefficients"] == whole["coefficients"]
        assert resumed["count"] == whole["count"] == 18
