import numpy as np
import torch

from linreg_pl.functional.sgd import sgd


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
