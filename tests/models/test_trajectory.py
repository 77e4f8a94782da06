"""Promise 1: from the same start, on the same rows, all models take the same steps."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from linreg_pl.data.synthetic import Synthetic
from linreg_pl.models import Concise, Scratch
from tests.support.training import EPOCHS, SEED, by_hand, fit, make, notebook_1, notebook_2

ROUNDING = 1e-6  # float32 resolves 2.4e-7 at the bias of 4.2


@pytest.fixture(params=[(103, 1), (103, 10), (103, 16), (96, 16)], ids=lambda shape: "{} rows by {}".format(*shape))
def data(request):
    num_train, batch_size = request.param
    return Synthetic(num_train=num_train, batch_size=batch_size, num_val=13, seed=5)


@pytest.fixture
def rows():
    return Synthetic(num_train=103, batch_size=10, num_val=13, seed=5)


def assert_same(steps, expected, data, atol=ROUNDING):
    assert len(steps) == EPOCHS * -(-data.num_rows("train") // data.batch_size)
    assert np.abs(steps[-1] - steps[0]).max() > 0.01  # it moved at all
    np.testing.assert_allclose(steps, expected, rtol=0, atol=atol)


def test_scratch_takes_the_steps_of_notebook_1(data):
    assert_same(fit(make(Scratch, lr=0.03), data), notebook_1(data, lr=0.03), data)


def test_concise_takes_the_steps_of_notebook_2(data):
    assert_same(fit(make(Concise, lr=0.03), data), notebook_2(data, lr=0.03), data)


def test_scratch_at_twice_the_lr_takes_the_steps_of_concise(data):
    assert_same(fit(make(Scratch, lr=0.06), data), fit(make(Concise, lr=0.03), data), data)


@pytest.mark.parametrize("arguments", [{}, {"weight_decay": 0.5}, {"bias": False}], ids=str)
def test_steps_are_those_of_arithmetic(data, arguments):
    assert_same(fit(make(Scratch, lr=0.03, **arguments), data), by_hand(data, lr=0.03, **arguments), data, atol=5e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_scratch_decays_as_concise_does_by_twice_as_much(rows, bias):
    scratch = fit(make(Scratch, lr=0.06, weight_decay=0.3, bias=bias), rows)
    concise = fit(make(Concise, lr=0.03, weight_decay=0.6, bias=bias), rows)
    assert_same(scratch, concise, rows)


def test_without_bias_none_is_learnt(rows):
    for kind in (Scratch, Concise):
        model = make(kind, bias=False)
        assert (fit(model, rows)[:, -1] == 0).all()
        assert not model.has_bias
        assert [tuple(parameter.shape) in {(2, 1), (1, 2)} for parameter in model.parameters()] == [True]


@pytest.mark.parametrize(("name", "loss"), [("huber", nn.HuberLoss()), ("absolute", nn.L1Loss())])
def test_other_losses_are_those_of_torch(rows, name, loss):
    assert_same(fit(make(Concise, lr=0.1, loss=name), rows), notebook_2(rows, lr=0.1, loss=loss), rows)


def test_any_optimizer_of_torch_can_be_chosen(rows):
    steps = fit(make(Concise, lr=0.1, optimizer=torch.optim.Adam), rows)
    assert_same(steps, notebook_2(rows, lr=0.1, optimizer=torch.optim.Adam), rows, atol=2e-6)


def test_scheduler_steps_once_an_epoch(rows):
    scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    steps = fit(make(Concise, lr=0.03, lr_scheduler=scheduler), rows)
    assert_same(steps, notebook_2(rows, lr=0.03, scheduler=scheduler), rows)


@pytest.mark.parametrize("kind", [Scratch, Concise])
def test_start_depends_on_the_seed_alone(rows, kind):
    torch.randn(100)  # the state of the global generator does not matter
    first = make(kind, init_std=0.5).coefficients()[0]
    expected = 0.5 * torch.randn(2, generator=torch.Generator().manual_seed(SEED))
    assert torch.equal(first, expected.double())
    assert make(kind).coefficients()[1].item() == 0.0
    assert make(kind, init_std=0.0).coefficients()[0].tolist() == [0.0, 0.0]


def test_steps_are_reproduced_bit_for_bit(rows):
    for kind in (Scratch, Concise):
        np.testing.assert_array_equal(fit(make(kind), rows), fit(make(kind), rows))
