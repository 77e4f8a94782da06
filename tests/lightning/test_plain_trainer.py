"""Our models and our data under a plain `lightning.Trainer`, as a stranger types it; and under our own."""

import csv
import pickle
import re

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
    AT_500,
    FIRST_ROWS,
    MODELS,
    NOISE,
    SGD,
    TRAINERS,
    OwnModule,
    loader,
    model,
    norris,
    rows,
    trainer,
    weights,
)

pytestmark = NOISE
NAMES = {"loss", "mse", "rmse", "r2"}


def about(values):
    """Within what 100 epochs of SGD come to."""
    return pytest.approx(values, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module", params=MODELS, ids=lambda kind: kind.__name__)
def norris_fit(request, tmp_path_factory):
    """A fit of the standardised table by each model, and its checkpoint: look, but do not touch."""
    fitted = model(request.param, 1)
    fit = trainer(max_epochs=100, enable_checkpointing=True, default_root_dir=tmp_path_factory.mktemp("norris"))
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
        again = model(type(fitted), 1)
        trainer(max_epochs=1).fit(again, datamodule=Synthetic([3.0]))
        trainer(max_epochs=100).fit(again, datamodule=norris())
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


class TestMetrics:
    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("logger", [None, CSVLogger, TensorBoardLogger])
    @pytest.mark.parametrize("fits", MODELS)
    def test_validate_and_test_return_them(self, kind, logger, fits, tmp_path):
        ours = model(fits)
        run = trainer(kind, 1, logger=logger(tmp_path) if logger else False)
        run.fit(ours, datamodule=Synthetic())
        (val,), (test,) = run.validate(ours, Synthetic(), verbose=False), run.test(ours, Synthetic(), verbose=False)
        assert val.keys() == {f"val/{name}" for name in NAMES}
        assert test.keys() == {f"test/{name}" for name in NAMES}
        X, y = Synthetic().raw("val")
        assert val["val/mse"] == pytest.approx((ours(X) - y).square().mean().item(), rel=1e-4)

    def test_they_are_printed(self, capsys):
        ours = model(Concise)
        trainer().test(ours, Synthetic())
        assert all(f"test/{name}" in capsys.readouterr().out for name in ["mse"])

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", MODELS)
    def test_of_a_fit(self, kind, fits, tmp_path):
        loggers = [CSVLogger(tmp_path / "csv", "", ""), TensorBoardLogger(tmp_path / "board", "", "")]
        run = trainer(kind, 2, logger=loggers, log_every_n_steps=5)
        run.fit(model(fits), datamodule=Synthetic())
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
        ours, data = model(Concise), Synthetic()
        run = trainer(max_epochs=2)
        run.fit(ours, datamodule=data)
        X, y = data.raw("train")
        assert float(run.callback_metrics["train/mse"]) == pytest.approx((ours(X) - y).square().mean().item(), rel=1e-4)

    @pytest.mark.parametrize("monitor", ["train/loss", "train/mse", "val/mse"])
    @pytest.mark.parametrize("fits", MODELS)
    def test_checkpoints_by_them(self, fits, monitor, tmp_path):
        best = ModelCheckpoint(tmp_path, monitor=monitor, save_top_k=1)
        run = trainer(max_epochs=2, callbacks=[best], enable_checkpointing=True)
        run.fit(model(fits), datamodule=Synthetic())
        assert float(best.best_model_score) == float(run.callback_metrics[monitor])
        assert weights(fits.load_from_checkpoint(best.best_model_path)) == weights(run.model)

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", SGD)
    @pytest.mark.parametrize("monitor", ["train/loss", "val/mse"])
    def test_stops_early_by_them(self, kind, fits, monitor):
        stopping = EarlyStopping(monitor, min_delta=0.1, patience=1)
        run = trainer(kind, 50, callbacks=[stopping])
        run.fit(model(fits, lr=0.005), datamodule=Synthetic())
        assert 2 < stopping.stopped_epoch < 20


class TestRefusals:
    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", SGD)
    def test_a_step_that_must_diverge(self, kind, fits):
        with pytest.raises(InputError, match=r"lr 5: diverges on these data .* is the largest stable one"):
            trainer(kind).fit(fits(2, lr=5.0), datamodule=Synthetic())

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
            trainer(kind, **flags).fit(fits(2), datamodule=Synthetic())

    def test_diverges_on_rows_of_ones_own(self):
        with pytest.raises(InputError, match=r"the run has diverged; .*set a smaller --model\.lr"):
            trainer().fit(Scratch(2, lr=500.0), loader(*rows()))

    @pytest.mark.parametrize("fits", [Scratch, Concise])
    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
    def test_precision(self, fits, precision):
        ours = model(fits)
        run = trainer(precision=precision)
        run.fit(ours, datamodule=Synthetic())
        assert weights(ours) == pytest.approx([2, -3.4, 4.2], abs=0.15)
        assert run.predict(ours, Synthetic())[0].dtype == torch.float64

    @pytest.mark.filterwarnings("ignore:You passed .*AMP with fp16 is not supported on CPU")
    def test_half_precision_on_a_cpu_is_what_lightning_makes_of_it(self):
        ours = model(Concise)
        trainer(precision="16-mixed").fit(ours, datamodule=Synthetic())
        assert weights(ours) == pytest.approx([2, -3.4, 4.2], abs=0.05)

    def test_exact_in_double_precision(self):
        plain, double = model(Exact), model(Exact)
        trainer().fit(plain, datamodule=Synthetic())
        trainer(precision="64-true").fit(double, datamodule=Synthetic())
        assert weights(double) == weights(plain)


class TestLearningRateFinder:
    @pytest.mark.parametrize("kind", TRAINERS)
    def test_finds_for_concise_what_it_finds_for_any_module(self, kind, tmp_path):
        found = []
        for ours in (model(Concise, init_std=0.0), OwnModule()):
            run = trainer(kind, default_root_dir=tmp_path)
            finder = Tuner(run).lr_find(ours, datamodule=Synthetic(), min_lr=1e-4, max_lr=0.5, mode="linear")
            found.append(finder.suggestion())
            assert ours.lr == found[-1]
            run.fit(ours, datamodule=Synthetic())
            weight = ours.net[0].weight if isinstance(ours, Concise) else ours.net.weight
            assert weight[0].tolist() == pytest.approx([2, -3.4], abs=0.01)
        assert found[0] == pytest.approx(found[1])
        assert 0.01 < found[0] < 0.5

    @pytest.mark.parametrize("fits", [Scratch, Fused, Exact])
    def test_refused_for_steps_taken_by_hand(self, fits, tmp_path):
        ours = model(fits)
        with pytest.raises(InputError, match="the learning rate finder needs a model whose steps the Trainer takes"):
            Tuner(trainer(default_root_dir=tmp_path)).lr_find(ours, datamodule=Synthetic())
        assert ours.lr == (None if fits is Exact else 0.1)
        trainer().fit(ours, datamodule=Synthetic())
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
        data = (with_hooks(Synthetic, called) if owner == "data" else Synthetic)(num_val=0)
        run = trainer(kind, 1)
        run.fit(ours, datamodule=data)
        steps = {Exact: 1, Fused: 2}.get(fits, 100)
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
        data = (with_hooks(Synthetic, [], doubles=True) if owner == "data" else Synthetic)()
        trainer(kind, 3).fit(ours, datamodule=data)
        assert weights(ours) == pytest.approx([4, -6.8, 8.4], abs=0.1)


def keeping(folder, every, kind=L.Trainer):
    """A Trainer that keeps all its checkpoints."""
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
    return trainer(kind, callbacks=[keep], enable_checkpointing=True)


@pytest.fixture(scope="module", params=SGD, ids=lambda kind: kind.__name__)
def whole(request):
    """A model of a fit without a break: look, but do not touch."""
    whole = model(request.param)
    trainer().fit(whole, datamodule=Synthetic())
    return whole


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
class TestResume:
    """A fit that goes on from a checkpoint ends as one without a break; no warning is let through."""

    @pytest.mark.parametrize(("kind", "step"), [(L.Trainer, 37), (L.Trainer, 100), (linreg_pl.Trainer, 137)])
    def test_same_bits(self, kind, step, whole, tmp_path):
        fits = type(whole)
        every = 64 if fits is Fused else step  # chunks end there
        first = keeping(tmp_path, every, kind)
        first.fit(model(fits), datamodule=Synthetic())
        paths = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(re.search(r"\d+", path.stem)[0]))
        assert paths
        again = fits(2, lr=0.1)
        later = keeping(tmp_path, every, kind)
        later.fit(again, datamodule=Synthetic(), ckpt_path=paths[0])
        assert weights(again) == weights(whole)
        assert later.global_step == 300

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
        keeping(tmp_path, 50).fit(model(Concise), Synthetic().train_dataloader())
        with pytest.raises(InputError, match="give the Trainer the data module itself"):
            keeping(tmp_path, 50).fit(
                model(Concise), Synthetic().train_dataloader(), ckpt_path=tmp_path / "step=50.ckpt"
            )


class TestDataInALoop:
    """What a reader of the book types."""

    @pytest.fixture(params=["synthetic", "table", "streamed"])
    def make(self, request):
        if request.param == "synthetic":
            return Synthetic
        if request.param == "table":
            return lambda: norris(batch_size=5)

        def streamed():
            data = norris(batch_size=5)
            data.memory = 1e-4
            assert data.streamed("train")
            return data

        return streamed

    def test_first_batch(self, make):
        X, y = next(iter(make().train_dataloader()))
        assert X.shape[1:] == (len(make().feature_names),)
        assert y.shape == (len(X), 1)
        assert X.dtype == y.dtype == torch.float32

    def test_setup_without_arguments(self, make):
        data = make()
        data.setup()
        data.prepare_data()
        X, _ = next(iter(data.train_dataloader()))
        if data.standardize:
            assert X.abs().max() < 3

    def test_passes_are_reshuffled(self, make):
        one, other = make(), make()
        once = one.train_dataloader()
        twice = [[X for X, y in once] for _ in range(3)]
        anew = [[X for X, y in other.train_dataloader()] for _ in range(3)]
        assert len({len(batches) for batches in (*twice, *anew)}) == 1
        for batches in (twice, anew):
            assert len({tuple(torch.cat(epoch)[:, 0].tolist()) for epoch in batches}) == 3
            assert len({tuple(torch.cat(epoch)[:, 0].sort().values.tolist()) for epoch in batches}) == 1
        assert torch.equal(torch.cat(twice[2]), torch.cat(anew[2]))

    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", MODELS)
    def test_all_batches_after_a_fit(self, kind, fits, make):
        data = make()
        run = trainer(kind)
        run.fit(model(fits, len(data.feature_names)), datamodule=data)
        count = -(-data.num_rows("train") // data.batch_size)
        assert len(data.train_dataloader()) == count
        batches = list(data.train_dataloader())
        assert len(batches) == count
        assert len(torch.cat([X for X, y in batches])) == data.num_rows("train")

    @pytest.mark.parametrize("fits", SGD)
    def test_peeking_does_not_change_a_fit(self, fits, make):
        found = []
        for peeks in (0, 2):
            data = make()
            ours = model(fits, len(data.feature_names))
            for _ in range(peeks):
                next(iter(data.train_dataloader()))
                list(data.train_dataloader())
            trainer().fit(ours, datamodule=data)
            found.append(weights(ours))
        assert found[0] == found[1]

    def test_pickled_after_a_fit(self, make):
        data = make()
        run = trainer()
        run.fit(model(Concise, len(data.feature_names)), datamodule=data)
        content = pickle.dumps(data)
        assert len(content) < 20_000
        again = pickle.loads(content)
        assert [len(X) for X, y in again.train_dataloader()] == [len(X) for X, y in data.train_dataloader()]
        first, second = (model(Scratch, len(data.feature_names)) for _ in range(2))
        trainer().fit(first, datamodule=again)
        trainer().fit(second, datamodule=make())
        assert weights(first) == weights(second)


class TestOtherForms:
    @pytest.fixture(params=MODELS, ids=lambda kind: kind.__name__)
    def fitted(self, request):
        ours = model(request.param, 1)
        trainer(max_epochs=20).fit(ours, datamodule=norris())
        return ours

    @pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated", "ignore:.*to_torchscript. has been deprecated")
    @pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0")
    def test_torchscript(self, fitted, tmp_path):
        X = torch.tensor([[500.0], [0.2], [3.0]])
        with pytest.raises(InputError, match=r"can be traced, .* but not scripted"):
            fitted.to_torchscript()
        traced = fitted.to_torchscript(tmp_path / "model.pt", method="trace", example_inputs=X)
        assert torch.equal(traced(X[:2]), fitted(X[:2]))
        assert torch.equal(torch.jit.load(tmp_path / "model.pt")(X), fitted(X))

    def test_export(self, fitted):
        X = torch.tensor([[500.0], [0.2], [3.0]])
        rows = torch.export.Dim("rows")
        exported = torch.export.export(fitted, (X,), dynamic_shapes=({0: rows},)).module()
        assert torch.equal(exported(X), fitted(X))
        assert torch.equal(exported(X[:2]), fitted(X[:2]))

    @pytest.mark.parametrize("way", ["deepcopy", "pickle"])
    def test_copies(self, fitted, way):
        import copy

        again = copy.deepcopy(fitted) if way == "deepcopy" else pickle.loads(pickle.dumps(fitted))
        X = torch.tensor([[500.0], [0.2]])
        assert torch.equal(again(X), fitted(X))
        assert torch.equal(trainer().predict(again, norris())[0], trainer().predict(fitted, norris())[0])
        trainer(max_epochs=40).fit(again, datamodule=norris())  # a model of its own
        assert torch.equal(again(X), fitted(X)) == isinstance(fitted, Exact)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed"
)  # torch's
class TestCompiled:
    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("fits", MODELS)
    def test_fits_as_the_model_itself(self, kind, fits):
        plain, compiled = model(fits), model(fits)
        trainer(kind, 2).fit(plain, datamodule=Synthetic(num_train=100))
        wrapped = torch.compile(compiled, backend="eager")  # what is called is the same, without waiting for a compiler
        run = trainer(kind, 2)
        run.fit(wrapped, datamodule=Synthetic(num_train=100))
        assert weights(compiled) == pytest.approx(weights(plain), rel=1e-5)
        X, _ = Synthetic().raw("test")
        predicted = trainer(kind).predict(wrapped, Synthetic())[0]
        assert predicted.flatten().tolist() == pytest.approx(compiled(X).flatten().tolist(), rel=1e-4)

    def test_by_the_compiler(self):
        ours = torch.compile(Fused(2))
        trainer(max_epochs=3).fit(ours, datamodule=Synthetic())
        assert ours(torch.zeros(3, 2)).flatten().tolist() == pytest.approx([4.2] * 3, abs=0.01)


def test_both_trainers_give_the_same_bits():
    for fits in MODELS:
        found = []
        for kind in TRAINERS:
            ours = model(fits)
            trainer(kind).fit(ours, datamodule=Synthetic())
            found.append(weights(ours))
        assert found[0] == found[1]
    assert issubclass(linreg_pl.Trainer, L.Trainer)
