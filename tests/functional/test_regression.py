import numpy as np
import pytest
import torch

from linreg_pl.functional.regression import l2_penalty, linreg, sgd, squared_loss


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return random.normal(size=(7, 3)), random.normal(size=(3, 1)), random.normal(size=(7, 1))


def test_linreg_is_the_affine_map(rows):
    X, w, _ = rows
    for b in (torch.tensor([4.2], dtype=torch.float64), 4.2):
        np.testing.assert_allclose(linreg(torch.tensor(X), torch.tensor(w), b), X @ w + 4.2, rtol=1e-14)


def test_linreg_of_no_rows_is_empty():
    assert linreg(torch.empty(0, 3), torch.ones(3, 1), 0.0).shape == (0, 1)


@pytest.mark.parametrize("shape", [(7, 1), (7,)])
def test_squared_loss_is_half_the_square_of_each_row(rows, shape):
    X, w, y = rows
    losses = squared_loss(torch.tensor(X @ w), torch.tensor(y).reshape(shape))
    assert losses.shape == (7, 1)  # (7,) against (7, 1) would broadcast to (7, 7)
    np.testing.assert_allclose(losses, (X @ w - y) ** 2 / 2, rtol=1e-14)


def test_gradient_of_squared_loss_is_the_residual(rows):
    X, w, y = rows
    weight = torch.tensor(w, requires_grad=True)
    squared_loss(linreg(torch.tensor(X), weight, 0.0), torch.tensor(y)).sum().backward()
    np.testing.assert_allclose(weight.grad, X.T @ (X @ w - y), rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
def test_l2_penalty_is_half_the_squared_norm(shape):
    assert l2_penalty(torch.tensor([1.0, -2.0, 3.0]).reshape(shape)).item() == 7.0


def parameter(value, gradient):
    param = torch.tensor(value, requires_grad=True)
    param.grad = None if gradient is None else torch.tensor(gradient)
    return param


def test_step_goes_down_the_mean_gradient():
    param = parameter([1.0, 2.0], [10.0, -20.0])
    sgd([param], lr=0.03, batch_size=10)
    np.testing.assert_allclose(param.detach(), [1.0 - 0.03 * 1.0, 2.0 + 0.03 * 2.0], rtol=1e-6)


def test_gradient_left_is_that_of_the_mean_loss():
    param = parameter([1.0], [10.0])
    sgd([param], lr=0.03, batch_size=4)
    assert param.grad.tolist() == [2.5]


def test_parameter_stays_the_same_leaf():
    param = parameter([1.0], [1.0])
    storage = param.data_ptr()
    sgd([param], lr=0.1, batch_size=1)
    assert (param.data_ptr(), param.requires_grad, param.grad_fn) == (storage, True, None)


def test_parameter_without_gradient_is_left_alone():
    idle, moved = parameter([1.0], None), parameter([1.0], [1.0])
    sgd([idle, moved], lr=0.5, batch_size=1)
    assert (idle.tolist(), moved.tolist()) == ([1.0], [0.5])
