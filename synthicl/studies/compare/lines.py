"""How rows of ``compare`` become the lines of its tables and figures."""

from __future__ import annotations

from typing import NamedTuple

from synthicl.core.words import words
from synthicl.studies.contexts import rank
from synthicl.studies.results import Results, Row


class Line(NamedTuple):
    """What stands in one line of a table.

    Attributes:
        context: its name.
        checkpoint: of a synthetic context.
        ipc: images per class.
        twins: names of other contexts that consist of the same rows.
        probe: title of a probe other than TabICL, where a comparison has one.
    """

    context: str
    checkpoint: str
    ipc: int
    twins: tuple[str, ...] = ()
    probe: str = ""

    @property
    def name(self) -> str:
        """All its names in words: ``nearest to class mean = herding = k-center``."""
        return " = ".join(map(words, (self.context, *self.twins))) + (f" with {self.probe}" if self.probe else "")


def lines(results: Results, split: str) -> dict[Line, list[Row]]:
    """Rows of a split, in the order of tables; builders that chose the same rows are one line and one comparison."""
    names = {Line(row.context, row.checkpoint, row.ipc) for row in results.select(split=split)}
    # "last" stands before "best_on_val"
    ordered = sorted(names, key=lambda key: (rank(key.context), key.context, key.ipc, key.checkpoint != "last"))
    found: dict[Line, list[Row]] = {}
    for key in ordered:
        rows = results.select(split=split, context=key.context, checkpoint=key.checkpoint, ipc=key.ipc)
        twin = None if key.checkpoint else next((other for other in found if same_rows(found[other], rows)), None)
        if twin is None:
            found[key] = rows
            continue
        there = {(row.probe, row.preprocessing) for row in found[twin]}
        new = [row for row in rows if (row.probe, row.preprocessing) not in there]
        named = twin._replace(twins=(*twin.twins, key.context))
        found = {named if other == twin else other: known for other, known in found.items()}
        found[named] = [*found[named], *new]
    return found


def same_rows(first: list[Row], second: list[Row]) -> bool:
    """Whether two contexts are made of the same rows, by their fingerprints with the probes that scored both."""
    both = [{(row.probe, row.preprocessing) for row in rows} for rows in (first, second)]
    shared = both[0] & both[1]
    marks = [
        {(*pair, row.draw, row.fingerprint) for row in rows if (pair := (row.probe, row.preprocessing)) in shared}
        for rows in (first, second)
    ]
    return bool(shared) and marks[0] == marks[1] and all(row.fingerprint for row in (*first, *second))


def probes(results: Results, split: str) -> list[tuple[str, str]]:
    """(probe, preprocessing) pairs of a split: TabICL's, the context set's own first, then the others as scored."""
    found = dict.fromkeys((row.probe, row.preprocessing) for row in results.select(split=split))
    return sorted(found, key=lambda pair: not pair[0].startswith("tabicl"))


def label(key: Line, rows: list[Row]) -> str:
    """How a context is called in a table."""
    name = key.name
    if key.checkpoint == "best_on_val":
        return f"{name} (best on val)"
    if (seeds := len({row.seed for row in rows})) > 1:
        return f"{name} ({seeds} seeds)"
    draws = len({row.draw for row in rows})
    return f"{name} ({draws} draws)" if key.context == "random" and draws > 1 else name


def of_column(results: Results, split: str) -> dict[Line, list[Row]]:
    """`lines` with the rows of the first probe alone: TabICL with the context set's own preprocessing."""
    column = probes(results, split)[0]
    rows = {
        key: [row for row in group if (row.probe, row.preprocessing) == column]
        for key, group in lines(results, split).items()
    }
    return {key: group for key, group in rows.items() if group}
