"""What ``transfer`` found: accuracy for each backbone that images were distilled with and each one that sees them."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from synthicl.core.statistics import Comparison, holm, mean_accuracy, paired_difference
from synthicl.core.words import words
from synthicl.report.style import COLORS, NARROW, new_figure
from synthicl.report.table import Table, against, difference_cells, percent_interval
from synthicl.studies.results import Results, Row, probe_title
from synthicl.studies.transfer.compute import PROBES, REFERENCES

MARKERS = dict(zip(PROBES, "os", strict=True))


def observers(results: Results) -> list[str]:
    """The backbones that look at the images, in the order in which they were asked for."""
    return list(dict.fromkeys(row.backbone for row in results.select(split="test")))


def contexts(results: Results) -> list[str]:
    """Synthetic contexts, then real ones."""
    names = {row.context for row in results.select(split="test")}
    return [*sorted(names - set(REFERENCES)), *(name for name in REFERENCES if name in names)]


def is_synthetic(context: str) -> bool:
    """Whether a context is made of synthetic images."""
    return context not in REFERENCES


def is_own(context: str, observer: str) -> bool:
    """Whether images are seen by the backbone that they were distilled with."""
    return context == f"synthetic ({observer})"


def rows_of(results: Results, probe: str, context: str, observer: str) -> list[Row]:
    """The rows on test of one cell: draws of a random context, seeds of a synthetic one."""
    return results.select(split="test", probe=probe, context=context, backbone=observer)


def label(context: str, rows: list[Row]) -> str:
    """How a context is called."""
    if is_synthetic(context):
        text = context.replace("synthetic (", "synthetic images (distilled with ")
        seeds = len({row.seed for row in rows})
        return f"{text}, {seeds} seeds" if seeds > 1 else text
    draws = len({row.draw for row in rows})
    return f"{words(context)} ({draws} draws)" if draws > 1 else words(context)


def probes(results: Results) -> list[str]:
    """The probes that are there: an interrupted evaluation may lack some."""
    present = {row.probe for row in results.select(split="test")}
    return [probe for probe in PROBES if probe in present]


def described(results: Results, probe: str) -> str:
    """A probe with its preprocessing, and the number of queries."""
    row = results.select(split="test", probe=probe)[0]
    return f"{probe_title(probe, row.preprocessing)}, {row.n_query} test queries"


def matrix(results: Results, probe: str) -> Table:
    """Accuracy with a probe: what the context is made of, against the backbone that sees it."""
    body = []
    for context in contexts(results):
        cells = [rows_of(results, probe, context, observer) for observer in observers(results)]
        present = next((rows for rows in cells if rows), None)
        if present is None:
            continue
        texts = [percent_interval(mean_accuracy(results.correct(rows))) if rows else "" for rows in cells]
        body.append([label(context, present), str(present[0].n_context), *texts])
    title = f"Accuracy in %, {described(results, probe)}, 95 % intervals; columns: the backbone that sees the images"
    return Table(title, ["context", "rows", *observers(results)], body)


def differences(results: Results) -> dict[tuple[str, str, str], Comparison]:
    """Synthetic minus real contexts with TabICL, paired on the queries: by context, observer and real context.

    The comparisons are fixed in advance.
    """
    found = {}
    for context in filter(is_synthetic, contexts(results)):
        for observer in observers(results):
            for reference in REFERENCES:
                pair = [rows_of(results, "tabicl", name, observer) for name in (context, reference)]
                if all(pair):
                    correct = (results.correct(rows) for rows in pair)
                    found[context, observer, reference] = paired_difference(*correct)
    return found


def difference_table(results: Results) -> Table:
    """The differences, in points."""
    found = differences(results)
    body = [
        [f"{context} - {words(reference)}", observer, *points]
        for (context, observer, reference), points in zip(found, difference_cells(list(found.values())), strict=True)
    ]
    title = f"Points on test with {described(results, 'tabicl')}, paired on the queries"
    return Table(title, ["difference", "seen by", "points [95 % interval]", "p (Holm)"], body)


def finding(results: Results) -> str:
    """What the images are worth to each backbone that they were not distilled with, beside its own real contexts."""
    found = differences(results)
    p_values = holm([comparison.p_value for comparison in found.values()])
    told = dict(zip(found, (p < 0.05 for p in p_values), strict=True))
    parts = []
    for context, observer in dict.fromkeys(key[:2] for key in found):
        rivals = {key[2]: found[key].difference for key in found if key[:2] == (context, observer)}
        strongest = min(rivals, key=lambda name: rivals[name].estimate)
        beside = [
            against(words(name), rivals[name], told[context, observer, name])
            for name in dict.fromkeys((strongest, "random"))
            if name in rivals
        ]
        rows = rows_of(results, "tabicl", context, observer)
        accuracy = percent_interval(mean_accuracy(results.correct(rows)))
        if not is_own(context, observer):
            parts.append(f"seen by {observer}, {label(context, rows)} give {accuracy} %: {' and '.join(beside)}")
    return f"With TabICL, {'; '.join(parts)}." if parts else ""


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    synthetic = any(is_synthetic(context) for context in contexts(results))
    found = probes(results)
    differences = [difference_table(results)] if synthetic and "tabicl" in found else []
    return [*(matrix(results, probe) for probe in found), *differences]


def dot_plot(results: Results) -> Figure:
    """A panel for each backbone that sees the images, in it a line for each context and a point for each probe."""
    seen_by, names = observers(results), contexts(results)
    figure, only = new_figure(NARROW, (0.36 * len(names) + 0.7) * len(seen_by) + 1.2)
    only.remove()
    panels = np.atleast_1d(figure.subplots(len(seen_by), 1, sharex=True, sharey=True))
    labels = {}
    for observer, axes in zip(seen_by, panels, strict=True):
        for position, context in enumerate(reversed(names)):
            color = COLORS["synthetic" if is_synthetic(context) else "real"]
            for probe, shift in zip(probes(results), (0.13, -0.13), strict=False):
                rows = rows_of(results, probe, context, observer)
                if not rows:
                    continue
                labels[position] = f"{label(context, rows)}, {rows[0].n_context} rows"
                middle, low, high = (100 * value for value in mean_accuracy(results.correct(rows)))
                axes.plot([low, high], [position + shift] * 2, color=color, lw=2, alpha=0.5)
                own = is_own(context, observer)
                axes.plot(middle, position + shift, MARKERS[probe], ms=7, color=color, mfc=color if own else "white")
        axes.set_title(f"seen by {observer}", fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("accuracy on test in %")
    panels[0].set_yticks(list(labels), list(labels.values()), fontsize=8.5)
    handles = [
        Line2D([], [], color="black", lw=0, marker=MARKERS[probe], ms=7, mfc="white", label=described(results, probe))
        for probe in probes(results)
    ]
    handles.append(
        Line2D([], [], color="black", lw=0, marker="o", ms=7, label="filled: seen by what it was distilled with")
    )
    handles.append(Line2D([], [], color="black", lw=2, alpha=0.5, label="95 % interval"))
    figure.legend(handles=handles, loc="outside lower left", ncols=1, frameon=False, fontsize=8.5)
    shown = ", ".join(seen_by)
    figure.set_label(
        f"A panel for each backbone that sees the images ({shown}), in it the accuracy of {len(names)} contexts. What "
        "is to be seen is how far the synthetic ones move to the left where another backbone looks."
    )
    return figure


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    return {"matrix": dot_plot(results)} if probes(results) else {}
