"""Command lines that are refused like the rest of the program: one line, exit code 2."""

import argparse
from typing import NoReturn

from vispco.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises instead of printing the usage.

    Raises
    ------
    ConfigError
        If the words do not fit.
    """

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise ConfigError(f"{message}; see {self.prog} --help")
