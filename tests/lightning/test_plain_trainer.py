"""Our models and our data under a plain `lightning.Trainer`, as a stranger types it; and under our own."""

import csv

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import linreg_pl
from linreg_pl import Concise, Exact, Fused, InputError, Scratch, Synthetic
from tests.lightning.own import (
    MODELS,
    NOISE,
    SGD,
    TRAINERS,
    OwnModule,
    loader,
    model,
    rows,
    trainer,
    weights,
)

pytestmark = NOISE


def small():
    """Enough rows for three passes to come near the truth."""
    return Synthetic(num_train=300)


NAMES = {"loss", "mse", "rmse", "r2"}


class TestMetrics:
    @pytest.mark.parametrize(
        ("kind", "logger"), [(L.Trainer, None), (L.Trainer, CSVLogger), (linreg_pl.Trainer, TensorBoardLogger)]
    )
    @pytest.mark.parametrize("fits", MODELS)
    def test_validate_and_test_return_them(self, kind, logger, fits, tmp_path):
        ours = model(fits)
        run = trainer(kind, 1, logger=logger(tmp_path) if logger else False)
        run.fit(ours, datamodule=small())
        (val,), (test,) = run.validate(ours, small(), verbose=False), run.test(ours, small(), verbose=False)
        assert val.keys() == {f"val/{name}" for name in NAMES}
        assert test.keys() == {f"test/{name}" for name in NAMES}
        X, y = small().raw("val")
        assert val["val/mse"] == pytest.approx((ours(X) - y).square().mean().item(), rel=1e-4)

    def test_they_are_printed(self, capsys):
        ours = model(Concise)
        trainer().test(ours, small())
        assert all(f"test/{name}" in capsys.readouterr().out for name in ["mse"])

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", MODELS)
    def test_of_a_fit(self, kind, fits, tmp_path):
        loggers = [CSVLogger(tmp_path / "csv", "", ""), TensorBoardLogger(tmp_path / "board", "", "")]
        run = trainer(kind, 2, logger=loggers, log_every_n_steps=5)
        run.fit(model(fits), datamodule=small())
        expected = {f"{part}/{name}" for part in ("train", "val") for name in NAMES}
        assert run.callback_metrics.keys() >= expected
        assert run.progress_bar_metrics.keys() >= {"train/loss", "train/mse", "val/loss", "val/mse"}
        with (tmp_path / "csv" / "metrics.csv").open() as file:
            records = list(csv.DictReader(file))
        last = {name: value for record in records for name, value in record.items() if value}
        board = EventAccumulator(str(tmp_path / "board")).Reload()
        for name in expected:
            value = float(run.callback_metrics[name])
            assert float(last[name]) == pytest.approx(value)
            assert board.Scalars(name)[-1].value == pytest.approx(value)
            assert board.Scalars(name)[-1].step == run.global_step

    def test_scores_of_training_rows_are_those_of_the_last_weights(self):
        ours, data = model(Concise), small()
        run = trainer(max_epochs=2)
        run.fit(ours, datamodule=data)
        X, y = data.raw("train")
        assert float(run.callback_metrics["train/mse"]) == pytest.approx((ours(X) - y).square().mean().item(), rel=1e-4)

    @pytest.mark.parametrize("monitor", ["train/loss", "val/mse"])
    @pytest.mark.parametrize("fits", MODELS)
    def test_checkpoints_by_them(self, fits, monitor, tmp_path):
        best = ModelCheckpoint(tmp_path, monitor=monitor, save_top_k=1)
        run = trainer(max_epochs=2, callbacks=[best], enable_checkpointing=True)
        run.fit(model(fits), datamodule=small())
        assert float(best.best_model_score) == float(run.callback_metrics[monitor])
        assert weights(fits.load_from_checkpoint(best.best_model_path)) == weights(run.model)

    @pytest.mark.parametrize(
        ("kind", "monitor"), [(L.Trainer, "train/loss"), (L.Trainer, "val/mse"), (linreg_pl.Trainer, "val/mse")]
    )
    @pytest.mark.parametrize("fits", SGD)
    def test_stops_early_by_them(self, kind, fits, monitor):
        stopping = EarlyStopping(monitor, min_delta=0.1, patience=1)
        run = trainer(kind, 50, callbacks=[stopping])
        run.fit(model(fits, lr=0.02), datamodule=Synthetic(num_train=200))
        assert 2 < stopping.stopped_epoch < 20


class TestRefusals:
    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", SGD)
    def test_a_step_that_must_diverge(self, kind, fits):
        with pytest.raises(InputError, match=r"lr 5: diverges on these data .* is the largest stable one"):
            trainer(kind).fit(fits(2, lr=5.0), datamodule=small())

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize(
        ("fits", "flags"),
        [
            (Fused, {"limit_train_batches": 5}),
            (Fused, {"overfit_batches": 5}),
            (Fused, {"val_check_interval": 5}),
            (Fused, {"precision": "bf16-mixed"}),
            (Fused, {"precision": "64-true"}),
            (Exact, {"limit_train_batches": 5}),
            (Exact, {"precision": "bf16-true"}),
            *((fits, {"gradient_clip_val": 1.0}) for fits in (Scratch, Fused, Exact)),
            *((fits, {"accumulate_grad_batches": 2}) for fits in (Scratch, Fused, Exact)),
        ],
    )
    def test_flags_that_cannot_work(self, kind, fits, flags):
        with pytest.raises(InputError, match=r"--trainer\.\w+ .*: (counts|this model)"):
            trainer(kind, **flags).fit(fits(2), datamodule=small())

    def test_diverges_on_rows_of_ones_own(self):
        with pytest.raises(InputError, match=r"the run has diverged; .*set a smaller --model\.lr"):
            trainer().fit(Scratch(2, lr=500.0), loader(*rows()))

    @pytest.mark.parametrize("fits", [Scratch, Concise])
    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
    def test_precision(self, fits, precision):
        ours = model(fits)
        run = trainer(max_epochs=2, precision=precision)
        run.fit(ours, datamodule=small())
        assert weights(ours) == pytest.approx([2, -3.4, 4.2], abs=0.15)
        assert run.predict(ours, small())[0].dtype == torch.float64

    @pytest.mark.filterwarnings("ignore:You passed .*AMP with fp16 is not supported on CPU")
    def test_half_precision_on_a_cpu_is_what_lightning_makes_of_it(self):
        ours = model(Concise)
        trainer(max_epochs=2, precision="16-mixed").fit(ours, datamodule=small())
        assert weights(ours) == pytest.approx([2, -3.4, 4.2], abs=0.05)

    def test_exact_in_double_precision(self):
        plain, double = model(Exact), model(Exact)
        trainer().fit(plain, datamodule=small())
        trainer(max_epochs=2, precision="64-true").fit(double, datamodule=small())
        assert weights(double) == weights(plain)


class TestLearningRateFinder:
    @pytest.mark.parametrize("kind", TRAINERS)
    def test_finds_for_concise_what_it_finds_for_any_module(self, kind, tmp_path):
        found = []
        for ours in (model(Concise, init_std=0.0), OwnModule()):
            run = trainer(kind, default_root_dir=tmp_path)
            finder = Tuner(run).lr_find(ours, datamodule=small(), min_lr=1e-4, max_lr=0.5, mode="linear")
            found.append(finder.suggestion())
            assert ours.lr == found[-1]
            run.fit(ours, datamodule=small())
            weight = ours.net[0].weight if isinstance(ours, Concise) else ours.net.weight
            assert weight[0].tolist() == pytest.approx([2, -3.4], abs=0.01)
        assert found[0] == pytest.approx(found[1])
        assert 0.01 < found[0] < 0.5

    @pytest.mark.parametrize("fits", [Scratch, Fused, Exact])
    def test_refused_for_steps_taken_by_hand(self, fits, tmp_path):
        ours = model(fits)
        with pytest.raises(InputError, match="the learning rate finder needs a model whose steps the Trainer takes"):
            Tuner(trainer(default_root_dir=tmp_path)).lr_find(ours, datamodule=small())
        assert ours.lr == (None if fits is Exact else 0.1)
        trainer().fit(ours, datamodule=small())
        assert weights(ours) == pytest.approx([2, -3.4, 4.2], abs=0.01)


HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def with_hooks(base, called, doubles=False):
    """A class whose hooks of batches are overridden; they tell that they were called, and may double the targets."""

    class Watched(base):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            called.append(HOOKS[0])
            return super().on_before_batch_transfer(batch, dataloader_idx)

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            called.append(HOOKS[1])
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            called.append(HOOKS[2])
            batch = super().on_after_batch_transfer(batch, dataloader_idx)
            if doubles and self.trainer.training:
                X, y = batch
                return X, 2 * y
            return batch

    return Watched


@pytest.mark.filterwarnings("ignore:You have overridden `.*` in `LightningModule` but have passed in a")
class TestHooksOfBatches:
    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("owner", ["model", "data"])
    @pytest.mark.parametrize("fits", MODELS)
    def test_called(self, kind, owner, fits):
        called = []
        torch.manual_seed(0)
        ours = (with_hooks(fits, called) if owner == "model" else fits)(2)
        data = (with_hooks(Synthetic, called) if owner == "data" else Synthetic)(num_train=300, num_val=0)
        run = trainer(kind, 1)
        run.fit(ours, datamodule=data)
        steps = {Exact: 1, Fused: 1}.get(fits, 30)
        assert called[: 3 * steps] == [*HOOKS] * steps
        called.clear()
        run.predict(ours, data)
        assert called == [*HOOKS]

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("owner", ["model", "data"])
    @pytest.mark.parametrize("fits", [Scratch, Concise])
    def test_what_they_return_is_trained_on(self, kind, owner, fits):
        torch.manual_seed(0)
        ours = (with_hooks(fits, [], doubles=True) if owner == "model" else fits)(2)
        data = (with_hooks(Synthetic, [], doubles=True) if owner == "data" else Synthetic)(num_train=500)
        trainer(kind, 3).fit(ours, datamodule=data)
        assert weights(ours) == pytest.approx([4, -6.8, 8.4], abs=0.1)


def test_both_trainers_give_the_same_bits():
    for fits in MODELS:
        found = []
        for kind in TRAINERS:
            ours = model(fits)
            trainer(kind).fit(ours, datamodule=small())
            found.append(weights(ours))
        assert found[0] == found[1]
    assert issubclass(linreg_pl.Trainer, L.Trainer)


@pytest.mark.parametrize("fits", MODELS)
def test_another_number_of_features(fits):
    with pytest.raises(InputError, match="num_features 3: the data have 2 features, beginning with 'x0'"):
        trainer().fit(fits(3), datamodule=small())
