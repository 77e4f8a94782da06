import copy

import numpy as np
import torch

from linreg_pl.models.optim import SGD


def losses_by(optimizer, w, X, y):
    """Ten steps on half the summed squared error, with a closure."""

    def closure():
        optimizer.zero_grad()
        loss = ((X @ w - y) ** 2).sum() / 2
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(10)]


def test_steps_are_those_of_torch_optim_sgd():
    torch.manual_seed(0)
    X, y = torch.randn(8, 2), torch.randn(8, 1)
    ours, theirs = (torch.zeros(2, 1, requires_grad=True) for _ in range(2))
    assert losses_by(SGD([ours], lr=0.02), ours, X, y) == losses_by(torch.optim.SGD([theirs], lr=0.02), theirs, X, y)
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-6)


def test_every_group_has_its_lr_and_shares_the_batch_size():
    first, second = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = SGD([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1)
    first.grad, second.grad = torch.tensor([4.0]), torch.tensor([4.0])
    optimizer.step(batch_size=2)
    np.testing.assert_allclose([first.item(), second.item()], [1 - 0.1 * 2, 1 - 0.5 * 2], atol=1e-7)


def test_state_dict_carries_the_lr():
    saved = copy.deepcopy(SGD([torch.ones(1, requires_grad=True)], lr=0.25).state_dict())
    other = SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.25
