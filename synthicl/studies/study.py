"""A section of the report: what one command found.

A section is one file here that puts a `Section` into ``REGISTERED`` under the command's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from synthicl.report.table import Table
from synthicl.studies.results import Results


class Section(NamedTuple):
    """How a command's results are shown; both functions are given the rows of that command alone.

    Attributes:
        title: of the section.
        tables: results -> tables.
        figures: results -> figures by file name, each to stand on its own (axes, units, n, legend).
    """

    title: str
    tables: Callable[[Results], list[Table]]
    figures: Callable[[Results], dict[str, Figure]]
