"""Hooks, looked up once for many calls."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def call_nothing(*arguments: Any) -> None:
    """Stand for a hook that nothing overrides."""


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


def _overrides(owner: object, name: str, base: type) -> bool:
    hook = getattr(owner, name)
    return callable(hook) and getattr(hook, "__func__", hook) is not getattr(base, name)
