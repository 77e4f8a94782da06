"""Our models on data of one's own: loaders, lists of batches, streams and data modules."""

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from linreg_pl import Concise, ElasticNet, Exact, InputError, Synthetic, Trainer
from tests.functional.test_elastic_net import brute_force, peer
from tests.lightning.own import (
    MODELS,
    NOISE,
    SGD,
    TRAINERS,
    OwnData,
    OwnModule,
    Stream,
    loader,
    model,
    norris,
    rows,
    trainer,
    weights,
)

pytestmark = NOISE


def optimum(X, y, weight=None):
    """Least squares, by another library's solver."""
    root = torch.ones(len(y), 1).double() if weight is None else weight.double().reshape(-1, 1).sqrt()
    Z = torch.cat([X.double(), torch.ones(len(y), 1).double()], dim=1) * root
    return torch.linalg.lstsq(Z, y.double().reshape(-1, 1) * root).solution.flatten().tolist()


@pytest.mark.parametrize("fits", MODELS)
class TestLoader:
    @pytest.mark.parametrize(
        ("kind", "dtype", "shape"),
        [
            (L.Trainer, torch.float32, "column"),
            (L.Trainer, torch.float64, "column"),
            (L.Trainer, torch.float64, "vector"),
            (Trainer, torch.float32, "vector"),
        ],
    )
    def test_trains_validates_tests_and_predicts(self, fits, kind, dtype, shape):
        X, y = rows(dtype)
        batches = loader(X, y if shape == "column" else y[:, 0])
        ours, run = model(fits), trainer(kind, 5)
        run.fit(ours, batches, batches)
        assert weights(ours) == pytest.approx(optimum(X, y), abs=0.1)
        mse = (X.double() @ ours.coefficients()[0].reshape(-1, 1) + ours.coefficients()[1] - y).square().mean().item()
        assert float(run.callback_metrics["train/mse"]) == pytest.approx(mse, rel=1e-4)
        assert float(run.callback_metrics["val/mse"]) == pytest.approx(mse, rel=1e-4)
        assert run.validate(ours, batches, verbose=False)[0]["val/mse"] == pytest.approx(mse, rel=1e-4)
        assert run.test(ours, batches, verbose=False)[0]["test/mse"] == pytest.approx(mse, rel=1e-4)
        predicted = run.predict(ours, batches)
        assert [batch.shape for batch in predicted] == [(10, 1)] * 10 + [(1, 1)]
        assert torch.allclose(torch.cat(predicted), ours(X).double(), atol=1e-5)

    @pytest.mark.parametrize("shape", ["column", "vector"])
    def test_weights(self, fits, shape):
        X, y = rows()
        y[60:] += 10  # rows that must not count
        weight = torch.ones(101, 1)
        weight[60:] = 0
        columns = (X, y, weight) if shape == "column" else (X, y[:, 0], weight[:, 0].double())
        batches = loader(*columns)
        ours, run = model(fits), trainer(max_epochs=10)
        run.fit(ours, batches, batches)
        assert weights(ours) == pytest.approx(optimum(X, y, weight), abs=0.15)
        assert float(run.callback_metrics["val/rmse"]) == pytest.approx(0.1, abs=0.1)

    @pytest.mark.parametrize("kind", TRAINERS)
    def test_stream_without_a_length(self, fits, kind):
        X, y = rows()
        batches = DataLoader(Stream(X, y), batch_size=10)
        ours, run = model(fits), trainer(kind, 5)
        run.fit(ours, batches, batches)
        assert weights(ours) == pytest.approx(optimum(X, y), abs=0.05)
        assert {"train/mse", "val/mse"} <= run.callback_metrics.keys()
        assert len(torch.cat(run.predict(ours, batches))) == 101

    @pytest.mark.parametrize("kind", TRAINERS)
    def test_data_module(self, fits, kind):
        X, y = rows()
        ours, run = model(fits), trainer(kind, 5)
        run.fit(ours, datamodule=OwnData(X, y))
        assert weights(ours) == pytest.approx(optimum(X, y), abs=0.1)
        for found in (run.validate(ours, OwnData(X, y), verbose=False), run.test(ours, OwnData(X, y), verbose=False)):
            assert all(value < 1.1 for value in found[0].values())
        assert torch.allclose(torch.cat(run.predict(ours, OwnData(X, y))), ours(X).double(), atol=1e-5)

    def test_predicts_rows_without_targets(self, fits):
        X, y = rows()
        ours, run = model(fits), trainer()
        run.fit(ours, loader(X, y))
        for batches in (loader(X), DataLoader(X, batch_size=10)):
            assert torch.allclose(torch.cat(run.predict(ours, batches)), ours(X).double(), atol=1e-5)

    def test_goes_on_in_the_units_of_the_table(self, fits):
        """A fit of raw rows after one of a standardised table stays where that one ended."""
        ours, table = model(fits, 1), norris()
        trainer(max_epochs=100).fit(ours, datamodule=table)
        trainer(max_epochs=1).fit(ours, loader(*table.raw("train"), batch_size=36))
        assert weights(ours) == pytest.approx([1.00211681802045, -0.262323073774029], rel=1e-4)


class TestShapes:
    @pytest.mark.parametrize("fits", MODELS)
    @pytest.mark.parametrize("wrong", [(101, 2), (101, 1, 1), (101, 101)])
    def test_targets_that_would_be_broadcast(self, fits, wrong):
        X, _ = rows()
        with pytest.raises(InputError, match=r"needs one value a row, \(10,\) or \(10, 1\)"):
            trainer().fit(model(fits), loader(X, torch.zeros(wrong)))

    @pytest.mark.parametrize("fits", MODELS)
    def test_in_validation(self, fits):
        X, y = rows()
        with pytest.raises(InputError, match="needs one value a row"):
            trainer().validate(model(fits), loader(X, torch.cat([y, y], dim=1)), verbose=False)

    @pytest.mark.parametrize("fits", MODELS)
    def test_whole_numbers(self, fits):
        X = torch.arange(20).reshape(-1, 1) / 10
        ours = model(fits, 1, lr=0.2)
        trainer(max_epochs=40).fit(ours, loader(X, (10 * X).long()))
        assert weights(ours) == pytest.approx([10, 0], abs=0.3)


class TestSameAsAnOwnModule:
    @pytest.mark.parametrize("kind", TRAINERS)
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_concise(self, kind, shuffle):
        """The same bits: neither scores nor curves draw random numbers or touch the weights."""
        X, y = rows()
        found = []
        for ours in (model(Concise, init_std=0.0), OwnModule()):
            torch.manual_seed(5)
            trainer(kind).fit(ours, loader(X, y, shuffle=shuffle))
            found.append([parameter.tolist() for parameter in ours.parameters()])
        assert found[0] == found[1]

    @pytest.mark.parametrize("fits", SGD)
    def test_scratch_and_fused_as_concise(self, fits):
        """Half the loss and twice the step size."""
        X, y = rows()
        ours, concise = model(fits, lr=0.2), model(Concise, lr=0.1)
        if fits is Concise:
            ours = model(Concise, lr=0.1)
        for each in (ours, concise):
            trainer().fit(each, loader(X, y))
        assert weights(ours) == pytest.approx(weights(concise), rel=1e-5)


@pytest.mark.parametrize("fits", MODELS)
def test_loaders_of_our_data(fits):
    """A loader of ours is one like any other."""
    data = Synthetic(num_train=500)
    ours = model(fits)
    trainer().fit(ours, data.train_dataloader(), data.val_dataloader())
    assert weights(ours) == pytest.approx([2, -3.4, 4.2], abs=0.01)
    predicted = trainer().predict(ours, data.train_dataloader())
    assert len(torch.cat(predicted)) == 500


def test_exact_takes_all_rows_of_a_standardised_loader():
    ours = model(Exact, 1)
    data = norris()
    data.setup()
    trainer().fit(ours, data.train_dataloader())
    assert weights(ours) == pytest.approx([1.00211681802045, -0.262323073774029], rel=1e-4)


@pytest.mark.parametrize("fits", MODELS)
def test_fast_dev_run(fits):
    X, y = rows()
    run = L.Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    run.fit(model(fits), loader(X, y), loader(X, y))
    assert run.global_step == 1


@pytest.mark.parametrize("kind", [L.Trainer, Trainer])
def test_elastic_net_draws_folds_for_any_batches(kind):
    """Cross-validated by scikit-learn on the folds that were drawn, of rows as they are."""
    X, y = rows(torch.float64)
    y = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net, run = ElasticNet(X.shape[1], folds=4), trainer(kind, 1)
    run.fit(net, loader(X, y))
    sizes = [len(part) for part in X.split(10)]
    drawn = [10 * i + torch.randperm(n, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(sizes)]
    table = (X.numpy(), y[:, 0].numpy(), np.ones(len(X)))
    found, places = net.details["cv"], [0, 40, 80]
    penalties = [found["penalty"][place] for place in places]
    each, sizes = brute_force(*table, torch.cat(drawn).numpy() % 4, penalties, 1.0, False)
    np.testing.assert_allclose([found["mse"][i] for i in places], np.average(each, axis=0, weights=sizes), rtol=1e-9)
    coef, intercept, _ = peer(*table, found["chosen"], 1.0, True, False)
    assert weights(net) == pytest.approx([*coef, intercept], abs=1e-8)
