"""The argument parser of the commands that need no configs. Needs no torch."""

from argparse import ArgumentParser
from typing import NoReturn

from linreg_pl.errors import InputError, as_run


class CommandParser(ArgumentParser):
    """Argument parser of one command, whose errors are one sentence."""

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(as_run(f"python train.py {command}"), description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")
