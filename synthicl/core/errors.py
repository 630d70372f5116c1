"""The one exception for mistakes a user can mend: its text is the single line the command line prints."""

from __future__ import annotations

import math

from synthicl.core.text import printable


class UserError(Exception):
    """Bad input. The message names the flag or file, what was found there, and what to do.

    Names come with data: what could steer a terminal is shown escaped, as `synthicl.core.text.printable` does. Lines
    stay lines, as one error may be about several things; a name that may hold the end of a line goes through
    ``printable`` before.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(printable, message.split("\n"))))


def check_at_least(least: int, group: str, **settings: int | None) -> None:
    """Check numbers that are counts.

    Args:
        least: the smallest one that is allowed.
        group: of the flags, such as ``--model.``.
        settings: by the flag's name; None stands for a setting that was left out.

    Raises:
        UserError: one of them is too small.
    """
    for name, value in settings.items():
        if value is not None and value < least:
            raise UserError(f"{group}{name}={value}: must be at least {least}.")


def check_between(least: float, most: float, group: str, **settings: float | None) -> None:
    """Check numbers that have a largest value as well; what is not a number lies nowhere.

    Args:
        least: the smallest one that is allowed.
        most: the largest one.
        group: of the flags, such as ``--model.``.
        settings: by the flag's name; None stands for a setting that was left out.

    Raises:
        UserError: one of them is outside.
    """
    for name, value in settings.items():
        if value is not None and not least <= value <= most:
            raise UserError(f"{group}{name}={value}: must lie between {least} and {most}.")


def check_positive(group: str, **settings: float | None) -> None:
    """Check numbers that are amounts, as `check_between` does.

    Raises:
        UserError: one of them is not greater than 0, or not finite.
    """
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{group}{name}={value}: must be greater than 0 and finite.")
