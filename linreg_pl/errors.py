"""What goes wrong because of the input, said in one sentence."""

import math


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
