"""Hooks of callbacks and modules, looked up once for many steps, and what calls them around a step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def find_hook(name: str, trainer: Trainer) -> Callable[..., Any]:
    """Return a function that calls a hook of those callbacks that override it, and of the module if it does."""
    module = trainer.lightning_module
    every: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks = [getattr(callback, name) for callback in every if _overrides(callback, name, Callback)]
    method = getattr(module, name) if _overrides(module, name, LightningModule) else None
    state = vars(module)

    def call(*arguments: Any) -> Any:
        previous = state["_current_fx_name"]
        state["_current_fx_name"] = name  # `self.log` looks at it
        for callback in callbacks:
            callback(trainer, module, *arguments)
        result = None if method is None else method(*arguments)
        state["_current_fx_name"] = previous
        return result

    return call if callbacks or method is not None else call_nothing


def call_nothing(*arguments: Any) -> None:
    """Stand for a hook that nothing overrides."""


def _overrides(owner: object, name: str, base: type) -> bool:
    hook = getattr(owner, name)
    return callable(hook) and getattr(hook, "__func__", hook) is not getattr(base, name)


class StepPrecision(Precision):
    """Single precision, with the hooks around a step looked up beforehand."""

    def __init__(self, trainer: Trainer) -> None:
        module = trainer.lightning_module
        self.on_before_backward = find_hook("on_before_backward", trainer)
        self.on_after_backward = find_hook("on_after_backward", trainer)
        self.on_before_optimizer_step = find_hook("on_before_optimizer_step", trainer)
        self.clips = trainer.gradient_clip_val is not None or is_overridden("configure_gradient_clipping", module)

    @property
    def calls_nothing(self) -> bool:
        """Whether there is no such hook, and nothing to clip."""
        hooks = self.on_before_backward, self.on_after_backward, self.on_before_optimizer_step
        return all(hook is call_nothing for hook in hooks) and not self.clips

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """Call the hooks before the backward pass."""
        self.on_before_backward(tensor)
        return tensor

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """Call the hooks after it."""
        self.on_after_backward()
        return tensor

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Step without a closure if there is nothing to call in it."""
        if closure is do_nothing_closure and self.on_before_optimizer_step is call_nothing and not self.clips:
            return step(optimizer, **kwargs)
        return step(optimizer, closure=partial(self._wrap_closure, model, optimizer, closure), **kwargs)

    def _after_closure(self, model: LightningModule, optimizer: Optimizer) -> None:  # type: ignore[override]
        self.on_before_optimizer_step(optimizer)
        if self.clips:
            algorithm = model.trainer.gradient_clip_algorithm
            self._clip_gradients(model, optimizer, model.trainer.gradient_clip_val, algorithm)


def step(optimizer: Optimizer, **arguments: Any) -> Any:
    """Call ``optimizer.step``, without torch's wrapper of it if neither a profiler nor a hook needs that."""
    method = type(optimizer).step
    if (
        not hasattr(method, "hooked")
        or "step" in vars(optimizer)  # a learning rate scheduler counts the steps
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    ):
        return optimizer.step(**arguments)
    return method.__wrapped__(optimizer, **arguments)  # type: ignore[attr-defined]
