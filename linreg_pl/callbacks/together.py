"""Several callbacks as one."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L

from linreg_pl.hooks import drop_unused


class Together(L.Callback):
    """Passes each hook on to those callbacks that use it, in their order.

    The Trainer calls every hook of every callback, about ten of them in each step and at about
    a microsecond each; most do nothing.

    Args:
        callbacks: the callbacks.
    """

    def __init__(self, callbacks: list[L.Callback]) -> None:
        self.callbacks = callbacks
        drop_unused(self, L.Callback)
        for hook in dir(L.Callback):
            users = [
                callback for callback in callbacks if getattr(type(callback), hook) is not getattr(L.Callback, hook)
            ]
            if users and (hook.startswith("on_") or hook in ("setup", "teardown")):
                setattr(self, hook, _all([getattr(callback, hook) for callback in users]))


def _all(functions: list[Callable[..., None]]) -> Callable[..., None]:
    if len(functions) == 1:
        return functions[0]

    def call(*arguments: Any, **options: Any) -> None:
        for function in functions:
            function(*arguments, **options)

    return call
