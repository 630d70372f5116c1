"""Tables: to the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from synthicl.core.statistics import Comparison, Interval, holm
from synthicl.core.text import plain_markdown, printable


class Name(str):
    """A cell that came with the data, such as the name of a class: shown as it stands, whatever it looks like."""

    __slots__ = ()

    def __new__(cls, text: object) -> Name:
        """Escape what would not stay on its line."""
        return super().__new__(cls, printable(text))


class Table(NamedTuple):
    """A table of words.

    Attributes:
        title: what it shows, with n and units.
        header: one word for each column.
        body: rows of cells.
    """

    title: str
    header: list[str]
    body: list[list[str]]


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits that count, without an exponent: ``0.05``, ``12,300``."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}"


def percent_interval(interval: Interval, sign: str = "") -> str:
    """An accuracy or a difference with its interval, in percent; ``sign="+"`` shows the sign."""
    estimate, low, high = (f"{100 * value:{sign}.1f}" for value in interval)
    return f"{estimate} [{low}, {high}]"


def difference_cells(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Two cells for each comparison: points with their interval, and the p-value after Holm's correction over all."""
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [
        [percent_interval(comparison.difference, sign="+"), f"{p:.3f}" if p >= 0.001 else "< 0.001"]
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def against(rival: str, difference: Interval, told: bool) -> str:
    """A difference from a rival as the rest of a sentence; ``told``: whether the two are told apart."""
    if not told:
        return f"not told apart from {rival} ({percent_interval(difference, sign='+')} points)"
    if difference.estimate > 0:
        return f"{percent_interval(difference)} points above {rival}"
    below = Interval(-difference.estimate, -difference.high, -difference.low)
    return f"{percent_interval(below)} points below {rival}"


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables to the terminal, as wide as their cells need."""
    console = Console(width=max(Console().width, 160), highlight=False)
    for title, header, body in tables:
        table = RichTable(title=escape(title), title_justify="left")  # names of classes are no markup
        for position, name in enumerate(header):
            table.add_column(escape(name), justify="left" if position == 0 else "right")
        for row in body:
            table.add_row(*map(escape, row))
        console.print(table)


def markdown(table: Table) -> str:
    """A table in Markdown, without its title."""
    rows = (table.header, ["---"] * len(table.header), *table.body)
    return "\n".join("| " + " | ".join(map(_in_markdown, cells)) + " |" for cells in rows)


def _in_markdown(cell: str) -> str:
    return plain_markdown(cell) if isinstance(cell, Name) else cell.replace("|", "\\|")
