"""Modules of one's own on our data."""

import pytest
import torch
from torch.utils.data import DataLoader

from linreg_pl import InputError, Perturbed, Synthetic, Table
from tests.lightning.own import NOISE, TRAINERS, OwnModule, norris, rows, trainer

pytestmark = NOISE


def streamed_table():
    """A table that is too large for its memory."""
    data = norris(batch_size=5, val_fraction=0.2, test_fraction=0.2)
    data.memory = 1e-4
    return data


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Synthetic(num_train=100),
        lambda: Perturbed(num_train=100),
        lambda: norris(batch_size=5, val_fraction=0.2, test_fraction=0.2),
        lambda: norris(batch_size=5, val_fraction=0.2, test_fraction=0.2, standardize=False, memory=1),
        streamed_table,
    ],
    ids=["synthetic", "perturbed", "standardised table", "raw table", "streamed table"],
)
def test_trains_validates_tests_and_predicts(kind, make):
    data = make()
    module, run = (
        OwnModule(data.num_features, lr=0.1 if data.standardize or not hasattr(data, "source") else 1e-9),
        None,
    )
    run = trainer(kind, 3)
    run.fit(module, datamodule=data)
    assert run.global_step == 3 * -(-data.num_rows("train") // data.batch_size)
    assert {"loss", "val_loss"} <= run.callback_metrics.keys()
    assert run.validate(module, make(), verbose=False)[0]["val_loss"] > 0
    assert run.test(module, data, verbose=False)[0]["test_loss"] > 0
    assert len(torch.cat(run.predict(module, data))) == data.num_rows("predict")


@pytest.mark.parametrize("kind", TRAINERS)
def test_learns_the_coefficients(kind):
    module = OwnModule()
    trainer(kind, 3).fit(module, datamodule=Synthetic(num_train=500))
    assert module.net.weight[0].tolist() == pytest.approx([2, -3.4], abs=0.01)
    assert module.net.bias.tolist() == pytest.approx([4.2], abs=0.01)


@pytest.mark.parametrize("kind", TRAINERS)
def test_standardised_columns_in_and_out(kind):
    """A module of one's own does not know the scaling: it gets standardised columns everywhere, to predict too."""
    data = norris()
    module = OwnModule(1)
    run = trainer(kind, 100)
    run.fit(module, datamodule=data)
    predicted = torch.cat(run.predict(module, data))
    assert predicted[:2, 0].tolist() == pytest.approx([-0.0619, 337.85], abs=0.01)
    (X, _), *_ = data.predict_dataloader()
    assert X.mean().item() == pytest.approx(0, abs=1e-5)


def test_stopped_and_resumed(tmp_path):
    """The order of the rows goes on too where the module is not ours."""
    whole = OwnModule()
    trainer().fit(whole, datamodule=Synthetic(num_train=500))
    first = trainer(max_epochs=3, max_steps=67)
    first.fit(OwnModule(), datamodule=Synthetic(num_train=500))
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    again = OwnModule()
    trainer().fit(again, datamodule=Synthetic(num_train=500), ckpt_path=tmp_path / "stopped.ckpt")
    assert torch.equal(again.net.weight, whole.net.weight)


def test_a_data_set_of_ours_in_a_loader_of_ones_own():
    """The rows themselves can be had."""
    X, y = Synthetic().raw("train")
    module = OwnModule()
    trainer().fit(module, DataLoader(list(zip(X, y, strict=True)), batch_size=10))
    assert module.net.bias.tolist() == pytest.approx([4.2], abs=0.01)


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("memory", [256, 1e-9], ids=["in memory", "streamed"])
def test_after_errors_of_a_table_plain_loaders_work(tmp_path, command, memory):
    """Lightning leaves the classes of loaders patched if a method that returns one raises."""
    text = "".join(f"{row},{'x' if row % 3 else row}\n" for row in range(90))
    (tmp_path / "t.csv").write_text(f"x,y\n{text}")
    for _ in range(2):
        data = Table(str(tmp_path / "t.csv"), "y", standardize=False, val_fraction=0.3, test_fraction=0.3)
        data.memory = memory
        with pytest.raises(InputError, match="'x' is not a number"):
            getattr(trainer(), command)(OwnModule(1), datamodule=data)
    X, y = rows()
    assert len(trainer().predict(OwnModule(), DataLoader(list(zip(X, y, strict=True)), 10))) == 11


def test_rows_of_a_validation_can_be_trained_on():
    """Lightning validates in inference mode, whose tensors no graph can hold."""
    data = norris(val_fraction=0.5, batch_size=5)
    trainer().validate(OwnModule(1), datamodule=data, verbose=False)
    layer = torch.nn.Linear(1, 1)
    for X, y in data.val_dataloader():
        torch.nn.functional.mse_loss(layer(X), y).backward()
    assert layer.weight.grad.abs() > 0
