"""Texts that came with data (names of files and classes), made safe for a message, for Markdown and for a CSV."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

# Control characters, line separators, what turns the direction of writing, and bytes of a name that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A lone hyphen, dot or hash means something at the start of a line only, where no text of data stands.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def printable(text: object) -> str:
    """A text on one line of a terminal: what would move the cursor, end the line or cannot be encoded is escaped."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), str(text))


def plain_markdown(text: object) -> str:
    """A text that Markdown shows as it stands, also in a cell of a table."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", printable(text))


def plain_cell(text: object) -> str:
    """A text for a CSV that a spreadsheet does not take for a formula: an apostrophe is put before one."""
    cell = str(text)  # a number is none, whatever its sign
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def as_shown(name: str) -> str:
    """A name in the Unicode form that every way of typing it comes to."""
    return unicodedata.normalize("NFC", name)


def first_collision(names: Iterable[str], key: Callable[[str], str] = as_shown) -> tuple[str, str] | None:
    """The first two names that are one by ``key``: by default, that look the same; None where there are none."""
    seen: dict[str, str] = {}
    for name in names:
        if (form := key(name)) in seen:
            return seen[form], name
        seen[form] = name
    return None
