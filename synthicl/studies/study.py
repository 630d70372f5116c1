"""A study: a question asked of context sets, what it computes and what it shows.

A study is a folder here with ``compute.py`` and ``show.py``; its ``__init__.py`` puts one `Study` into ``REGISTERED``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from synthicl.report.table import Table
from synthicl.studies.results import Results


class Study(NamedTuple):
    """What a study is. ``tables`` and ``figures`` are given the rows of this study alone; it may do without either.

    Attributes:
        name: of its command, and of its rows in results.json.
        title: of its section in the report.
        compute: (subject, results, settings of its own) -> rows in ``results``. Its parameters are the command's flags.
        tables: results -> tables.
        figures: results -> figures by file name, each to stand on its own (axes, units, n, legend). A figure's label
            (``figure.set_label``) is its text for who cannot see it: what is to be seen.
        finding: results -> one sentence, made from the numbers, that says what was found; empty where there is none.
        printed: results -> those of the tables that the terminal shows; None for all. The report has all.
    """

    name: str
    title: str
    compute: Callable[..., None]
    tables: Callable[[Results], list[Table]] = lambda results: []
    figures: Callable[[Results], dict[str, Figure]] = lambda results: {}
    finding: Callable[[Results], str] = lambda results: ""
    printed: Callable[[Results], list[Table]] | None = None
