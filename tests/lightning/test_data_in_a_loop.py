"""Our data in a plain loop, as a reader of the book types it, before and after a fit."""

import pickle

import pytest
import torch

from linreg_pl import Concise, Scratch, Synthetic
from tests.lightning.own import MODELS, NOISE, SGD, TRAINERS, model, norris, trainer, weights

pytestmark = NOISE


@pytest.fixture(params=["synthetic", "table", "streamed"])
def make(request):
    """Makes the data."""
    if request.param == "synthetic":
        return lambda: Synthetic(num_train=203)
    if request.param == "table":
        return lambda: norris(batch_size=5)

    def streamed():
        data = norris(batch_size=5)
        data.memory = 1e-4
        assert data.streamed("train")
        return data

    return streamed


def test_first_batch(make):
    X, y = next(iter(make().train_dataloader()))
    assert X.shape[1:] == (len(make().feature_names),)
    assert y.shape == (len(X), 1)
    assert X.dtype == y.dtype == torch.float32


def test_setup_without_arguments(make):
    data = make()
    data.setup()
    data.prepare_data()
    X, _ = next(iter(data.train_dataloader()))
    if data.standardize:
        assert X.abs().max() < 3


def test_passes_are_reshuffled(make):
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
def test_all_batches_after_a_fit(kind, fits, make):
    data = make()
    run = trainer(kind)
    run.fit(model(fits, len(data.feature_names)), datamodule=data)
    count = -(-data.num_rows("train") // data.batch_size)
    assert len(data.train_dataloader()) == count
    batches = list(data.train_dataloader())
    assert len(batches) == count
    assert len(torch.cat([X for X, y in batches])) == data.num_rows("train")


@pytest.mark.parametrize("fits", SGD)
def test_peeking_does_not_change_a_fit(fits, make):
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


def test_pickled_after_a_fit(make):
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
