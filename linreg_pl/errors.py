"""What goes wrong because of the input, said in one sentence."""

import math
from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Wrong input: the message names the flag, file, column or row and the mend.

    The command line prints it as one line and exits with status 1; set
    ``LINREG_DEBUG=1`` to see the traceback as well.
    """


def require_positive(flag: str, value: float) -> None:
    """Raise InputError unless ``value`` is a finite number above zero."""
    if not 0 < value < math.inf:
        raise InputError(f"{flag} {value}: must be a positive number")


def require_not_negative(flag: str, value: float) -> None:
    """Raise InputError unless ``value`` is a finite number, zero or above."""
    if not 0 <= value < math.inf:
        raise InputError(f"{flag} {value}: must be zero or a positive number")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, be it written in other letters; None if none is near."""
    folded = {other.casefold(): other for other in names}
    near = get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def sentence(error: Exception) -> str:
    """Say what is wrong with the input, the disk or the memory."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file cannot be read or written'}: {error.strerror or error}"
    return str(error)
