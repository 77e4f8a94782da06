"""Functions compiled by numba."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function when it is first called, and keeps the code for later processes.

    Args:
        fastmath: what the compiler may do to floating-point arithmetic, by LLVM's names.
    """

    def compile_function(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable folder for the cache
            return numba.njit(**options)(function)

    return compile_function
