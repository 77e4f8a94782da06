"""The argument parser of the commands that need no configs. Needs no torch."""

import inspect
from argparse import ArgumentParser
from typing import Any, NoReturn, get_type_hints

from linreg_pl.errors import InputError
from linreg_pl.tables.reading import Reading


class CommandParser(ArgumentParser):
    """Argument parser of one command, whose errors are one sentence.

    Args:
        command: name of the command.
        description: what the command does.
    """

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(f"python train.py {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def types_of_arguments(kind: type) -> dict[str, Any]:
    """Return the types of the arguments of a model or data module, by their names."""
    found = {name: parameter.annotation for name, parameter in inspect.signature(kind).parameters.items()}
    if found.pop("reading", None) is not None:  # keyword arguments of `Table`
        found |= get_type_hints(Reading)
    return found
