"""A checkpoint is whole: what it was made from is not needed to predict, and a fit can go on from it."""

import re

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import linreg_pl
from linreg_pl import Concise, Fused, InputError, Synthetic
from tests.lightning.own import (
    AT_500,
    FIRST_ROWS,
    MODELS,
    NOISE,
    SGD,
    TRAINERS,
    OwnModule,
    model,
    norris,
    trainer,
    weights,
)

pytestmark = NOISE


def about(values):
    """Within what 100 epochs of SGD come to."""
    return pytest.approx(values, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module", params=MODELS, ids=lambda kind: kind.__name__)
def norris_fit(request, tmp_path_factory):
    """A fit of the standardised table by each model, and its checkpoint: look, but do not touch."""
    fitted = model(request.param, 1, lr=0.4)
    fit = trainer(max_epochs=25, enable_checkpointing=True, default_root_dir=tmp_path_factory.mktemp("norris"))
    fit.fit(fitted, datamodule=norris())
    return fitted, fit.checkpoint_callback.best_model_path


def old_style(path, folder):
    """The checkpoint as earlier versions wrote it: the scaling is in the data's part alone."""
    checkpoint = torch.load(path)
    del checkpoint["state_dict"]["scaler._extra_state"], checkpoint["feature_names"]
    if "lr" not in checkpoint["hyper_parameters"]:  # Exact was handed raw rows
        checkpoint["Table"].pop("mean", None)
    torch.save(checkpoint, folder / "old.ckpt")
    return folder / "old.ckpt"


@pytest.fixture(scope="module", params=["fitted", "loaded", "from an old checkpoint", "fitted again"])
def ready(request, norris_fit, tmp_path_factory):
    """A model that has seen the table, by one of the ways to come by it."""
    fitted, path = norris_fit
    if request.param == "fitted":
        return fitted
    if request.param == "fitted again":  # of another model, after other data
        again = model(type(fitted), 1, lr=0.4)
        trainer(max_epochs=1).fit(again, datamodule=Synthetic([3.0], num_train=10))
        trainer(max_epochs=25).fit(again, datamodule=norris())
        return again
    return type(fitted).load_from_checkpoint(
        path if request.param == "loaded" else old_style(path, tmp_path_factory.mktemp("old"))
    )


class TestUnitsOfTheTable:
    """Whatever was standardised in the fit, predictions and coefficients are for the columns of the table."""

    def test_forward(self, ready):
        X = torch.tensor([[500.0], [0.2]])
        assert ready(X).flatten().tolist() == about([AT_500, FIRST_ROWS[0]])
        assert ready(X.double()).flatten().tolist() == about([AT_500, FIRST_ROWS[0]])

    def test_coefficients_and_names(self, ready):
        assert weights(ready) == about([1.00211681802045, -0.262323073774029])
        assert ready.feature_names == ["x"]

    @pytest.mark.parametrize("standardize", [True, False])
    def test_predict_from_a_fresh_table(self, ready, standardize):
        predicted = torch.cat(trainer().predict(ready, norris(standardize=standardize)))
        assert predicted[:2, 0].tolist() == about(FIRST_ROWS)

    def test_other_rows_standardised_otherwise(self, ready):
        raw = norris(val_fraction=0.3, seed=3, standardize=False)
        fresh = norris(val_fraction=0.3, seed=3)
        other = norris(val_fraction=0.3, seed=3)
        trainer(max_epochs=1).fit(OwnModule(1), datamodule=other)  # learns its own means
        X, y = raw.raw("val")
        error = (X @ ready.coefficients()[0].reshape(-1, 1) + ready.coefficients()[1] - y).square().mean().item()
        for data in (raw, fresh, other):
            (found,) = trainer().validate(ready, data, verbose=False)
            assert found["val/mse"] == pytest.approx(error, rel=1e-3)

    def test_rows_left_as_they_are(self, ready):
        (found,) = trainer().test(ready, norris(test_fraction=0.5), verbose=False)
        assert found["test/rmse"] < 2


def keeping(folder, every, kind=L.Trainer):
    """A Trainer that keeps all its checkpoints."""
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
    return trainer(kind, callbacks=[keep], enable_checkpointing=True)


@pytest.fixture(scope="module", params=SGD, ids=lambda kind: kind.__name__)
def whole(request):
    """A model of a fit without a break: look, but do not touch."""
    whole = model(request.param)
    trainer().fit(whole, datamodule=Synthetic(num_train=300))
    return whole


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
class TestResume:
    """A fit that goes on from a checkpoint ends as one without a break; no warning is let through."""

    @pytest.mark.parametrize(("kind", "step"), [(L.Trainer, 11), (L.Trainer, 30), (linreg_pl.Trainer, 41)])
    def test_same_bits(self, kind, step, whole, tmp_path):
        fits = type(whole)
        every = 64 if fits is Fused else step  # chunks end there
        first = keeping(tmp_path, every, kind)
        first.fit(model(fits), datamodule=Synthetic(num_train=300))
        paths = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(re.search(r"\d+", path.stem)[0]))
        assert paths
        again = fits(2, lr=0.1)
        later = keeping(tmp_path, every, kind)
        later.fit(again, datamodule=Synthetic(num_train=300), ckpt_path=paths[0])
        assert weights(again) == weights(whole)
        assert later.global_step == 90

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("options", [{}, {"num_val": 20}], ids=["no validation", "validation"])
    def test_checkpoint_at_the_end_of_an_epoch(self, kind, options, whole, tmp_path):
        first = trainer(kind, max_epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
        first.fit(model(type(whole)), datamodule=Synthetic(num_train=300, **options))
        again, later = model(type(whole)), trainer(kind, enable_checkpointing=True, default_root_dir=tmp_path)
        path = first.checkpoint_callback.best_model_path
        later.fit(again, datamodule=Synthetic(num_train=300, **options), ckpt_path=path)
        assert weights(again) == weights(whole)
        assert later.global_step == 90

    def test_adam_and_a_table(self, tmp_path):
        def fresh():
            return model(Concise, 1, optimizer=torch.optim.Adam), norris(batch_size=5, val_fraction=0.2)

        whole, data = fresh()
        trainer().fit(whole, datamodule=data)
        ours, data = fresh()
        keeping(tmp_path, 8).fit(ours, datamodule=data)
        again, data = fresh()
        keeping(tmp_path, 8).fit(again, datamodule=data, ckpt_path=tmp_path / "step=8.ckpt")
        assert weights(again) == weights(whole)

    def test_a_loader_alone_cannot_go_on(self, tmp_path):
        keeping(tmp_path, 20).fit(model(Concise), Synthetic(num_train=300).train_dataloader())
        with pytest.raises(InputError, match="give the Trainer the data module itself"):
            keeping(tmp_path, 20).fit(
                model(Concise), Synthetic(num_train=300).train_dataloader(), ckpt_path=tmp_path / "step=20.ckpt"
            )
