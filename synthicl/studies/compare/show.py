"""What ``compare`` found: accuracies, differences that were named in advance, seconds, and the strip plot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from synthicl.core.statistics import Comparison, holm, mean_accuracy, paired_difference
from synthicl.core.words import words
from synthicl.probes.calibration import BINS, Reliability, reliability
from synthicl.report.style import COLORS, NARROW, legend_below, new_figure, set_title
from synthicl.report.table import Table, against, difference_cells, percent, percent_interval
from synthicl.studies.compare import show_parts
from synthicl.studies.compare.lines import Line, label, lines, of_column, probes
from synthicl.studies.contexts import SELECTION
from synthicl.studies.results import Results, Row, probe_title

CONFIDENCE = "compare/confidence/"  # (q,): the probability of the predicted class
MIN_QUERIES = 10  # queries of a bin, of each draw, below which it is left out of the diagram
TIMES = ("fit_seconds", "predict_seconds")


def cell(results: Results, rows: list[Row], spread: bool = True) -> str:
    """Accuracy with its interval; for several draws also their spread."""
    if not rows:
        return ""
    correct = results.correct(rows)
    text = percent_interval(mean_accuracy(correct))
    if len(rows) > 1 and spread:
        each = correct.mean(1)
        text += f", each {percent(each.min())} to {percent(each.max())}"
    return text


def accuracy_table(results: Results, split: str) -> Table:
    """Title, header and rows of the accuracy table."""
    columns = probes(results, split)
    spread = len(columns) <= 2  # there is room for it, and the strip plot shows it
    first = results.select(split=split)[0]
    title = f"Accuracy on {split} in %, {first.n_query} queries, 95 % intervals"
    header = ["context", "rows", *(probe_title(*column) for column in columns)]

    def cells(rows: list[Row]) -> list[str]:
        each = [[row for row in rows if (row.probe, row.preprocessing) == pair] for pair in columns]
        draws = max(map(len, each))
        return [
            cell(results, chosen, spread) + (f", {len(chosen)} draws" if 1 < len(chosen) < draws else "")
            for chosen in each
        ]

    body = []
    for key, rows in lines(results, split).items():
        body.append([label(key, rows), str(rows[0].n_context), *cells(rows)])
        draw = best_random_draw(results, columns[0], key.ipc) if key.checkpoint == "best_on_val" else None
        chosen = [] if draw is None else results.select(split=split, context="random", draw=draw, ipc=key.ipc)
        if chosen:  # the split may have been scored without
            body.append([f"{words('random')} (best draw on val)", str(rows[0].n_context), *cells(chosen)])
    return Table(title, header, body)


def extension_table(results: Results, split: str) -> list[Table]:
    """TabICL's accuracy on the classes of the run that was extended and on the new ones; none for other runs."""
    before = results.select(split=split)[0].run.get("classes_before")
    if not before:
        return []
    column = probes(results, split)[0]
    old = results.labels[split] < before
    title = f"Accuracy on {split} in % with {probe_title(*column)}, 95 % intervals"
    header = ["context", "rows", f"{before} classes from before, {old.sum()} queries", f"new, {(~old).sum()} queries"]
    body = []
    for key, rows in lines(results, split).items():
        chosen = [row for row in rows if (row.probe, row.preprocessing) == column]
        if chosen:
            correct = results.correct(chosen)
            cells = [percent_interval(mean_accuracy(correct[:, some])) for some in (old, ~old)]
            body.append([label(key, rows), str(rows[0].n_context), *cells])
    return [Table(title, header, body)]


def best_random_draw(results: Results, column: tuple[str, str], ipc: int) -> int | None:
    """The random draw that a (probe, preprocessing) scores highest on val: choosing on val without optimising."""
    draws = results.select(split="val", context="random", probe=column[0], preprocessing=column[1], ipc=ipc)
    return max(draws, key=lambda row: row.accuracy).draw if draws else None


def differences(results: Results, split: str) -> dict[Line, Comparison]:
    """Synthetic minus every other context, TabICL, paired on the queries; the comparisons are fixed in advance.

    The yardstick for all training images is the best probe on them, not TabICL alone: it is the last comparison.
    """
    synthetic = results.select(split=split, context="synthetic", checkpoint="last", probe="tabicl")
    if not synthetic:
        return {}
    preprocessing, ipc = synthetic[0].preprocessing, synthetic[0].ipc  # the context set's own is scored first
    rows = {
        key: [row for row in group if (row.probe, row.preprocessing) == ("tabicl", preprocessing)]
        for key, group in lines(results, split).items()
    }
    # What does not depend on the number of images per class is filed under the context set's own.
    names = [key for key in rows if key.context != "synthetic" and key.ipc == ipc and rows[key]]
    correct = results.correct(rows[Line("synthetic", "last", ipc)])
    found = {key: paired_difference(correct, results.correct(rows[key])) for key in names}
    best = best_on_all(results, split)
    if best is not None:
        on_all = results.select(split=split, context="all", probe=best[0], preprocessing=best[1])
        key = Line("all", "", ipc, probe=probe_title(*best))
        found[key] = paired_difference(correct, results.correct(on_all))
    return found


def comparison_table(results: Results, split: str) -> Table:
    """The differences, in points."""
    found = differences(results, split)
    cells = difference_cells(list(found.values()))
    body = [[f"synthetic - {key.name}", *points] for key, points in zip(found, cells, strict=True)]
    tabicl = probe_title(*probes(results, split)[0])
    title = f"Points on {split} with {tabicl}, paired on the queries"
    return Table(title, ["difference", "points [95 % interval]", "p (Holm)"], body)


def finding(results: Results) -> str:
    """How good the synthetic context is beside its strongest rivals: of its size, and with all images."""
    split = results.shown()
    synthetic = results.select(split=split, context="synthetic", checkpoint="last", probe="tabicl")
    found = differences(results, split)
    if not found:
        return ""
    p_values = holm([comparison.p_value for comparison in found.values()])
    told = dict(zip(found, (p < 0.05 for p in p_values), strict=True))
    accuracy = percent_interval(mean_accuracy(results.correct(synthetic[:1])))
    text = f"On {split} TabICL with the {synthetic[0].n_context} synthetic images is right on {accuracy} %"
    real = [key for key in found if key.context != "all"]
    if real:
        rival = min(real, key=lambda key: found[key].difference.estimate)
        of = f", the best of {len(real)} other contexts of that size" if len(real) > 1 else ""
        text += f": {against(words(rival.context), found[rival].difference, told[rival])}{of}"
    for key in found:
        if key.context == "all":
            text += f"; {against(key.name, found[key].difference, told[key])}"
            text += ", the best probe there on val" if key.probe else ""
    return f"{text}.{show_parts.finding(results, split)}"


def best_on_all(results: Results, split: str) -> tuple[str, str] | None:
    """The (probe, preprocessing) that val finds best on all training images; None if that is TabICL's own."""
    columns = probes(results, split)
    rows = {pair: results.select(context="all", probe=pair[0], preprocessing=pair[1]) for pair in columns}
    scored = {pair: {row.split: row.accuracy for row in found} for pair, found in rows.items() if found}
    best = max(scored, key=lambda pair: scored[pair].get("val", 0.0), default=columns[0])
    return None if best == columns[0] or split not in scored[best] else best


def seconds_table(results: Results, split: str) -> Table:
    """Seconds to fit and to predict, and those to make a context where they were measured; medians over rows."""
    columns = probes(results, split)
    made = any(SELECTION in row.measures for row in results.select(split=split))
    body = []
    for key, rows in lines(results, split).items():
        took = [row.measures[SELECTION] for row in rows if SELECTION in row.measures]
        cells = [f"{np.median(took):.1f}" if took else ""] if made else []
        for column in columns:
            chosen = [row for row in rows if (row.probe, row.preprocessing) == column]
            fit, predict = (np.median([getattr(row, name) for row in chosen] or [np.nan]) for name in TIMES)
            cells.append(f"{fit:.2f} + {predict:.2f}" if chosen else "")
        body.append([label(key, rows), str(rows[0].n_context), *cells])
    queries = results.select(split=split)[0].n_query
    header = ["context", "rows", *(["to make it"] if made else []), *(probe_title(*column) for column in columns)]
    title = f"Seconds to fit + to predict {queries} queries, under whatever else ran"
    if made:
        title += (
            ". To make it: to search or optimise a context, to distil the synthetic one without its validations. Only "
            "seconds of one machine and load compare"
        )
    return Table(title, header, body)


def binned(results: Results, rows: list[Row]) -> Reliability | None:
    """Queries of all draws by their confidence; None for rows from before it was kept."""
    found = [results.arrays.get(CONFIDENCE + row.key) for row in rows]
    kept = [confidence for confidence in found if confidence is not None]
    return reliability(np.concatenate(kept), results.correct(rows).flatten()) if len(kept) == len(rows) else None


def calibration_table(results: Results, split: str) -> Table:
    """Cross-entropy, Brier score and calibration error with TabICL, means over draws and seeds."""
    body = []
    for key, rows in of_column(results, split).items():
        if not all({"brier", "ece"} <= row.measures.keys() for row in rows):
            continue
        entropy, accuracy = (
            float(np.mean([getattr(row, name) for row in rows])) for name in ("cross_entropy", "accuracy")
        )
        score, error = (float(np.mean([row.measures[name] for row in rows])) for name in ("brier", "ece"))
        confidence = float(np.mean([results.arrays[CONFIDENCE + row.key] for row in rows]))
        cells = [percent(accuracy), percent(confidence), f"{entropy:.3f}", f"{score:.3f}", percent(error)]
        body.append([label(key, rows), str(rows[0].n_context), *cells])
    row = results.select(split=split)[0]
    title = (
        f"Calibration of {probe_title(*probes(results, split)[0])} on {split}, {row.n_query} queries, means over "
        f"draws; calibration error in {BINS} bins of equal width"
    )
    header = ["context", "rows", "right, %", "confidence, %", "cross-entropy, nats", "Brier score, 0 to 2"]
    return Table(title, [*header, "calibration error, %"], body)


def reliability_diagram(results: Results, split: str) -> Figure:
    """Accuracy against confidence with TabICL on random rows, the synthetic ones and all."""
    figure, axes = new_figure(NARROW, 5.9)
    axes.plot([0, 100], [0, 100], color=COLORS["reference"], lw=1.5, label="calibrated")
    shown = {"random": "real", "synthetic": "synthetic", "all": "all"}
    errors = []
    for key, rows in of_column(results, split).items():
        found = binned(results, rows)
        if key.context not in shown or key.checkpoint == "best_on_val" or found is None:
            continue
        some = found.number >= MIN_QUERIES * len(rows)
        color, count = COLORS[shown[key.context]], found.number[some]
        at, right = 100 * found.confidence[some], 100 * found.accuracy[some]
        error = float(np.mean([row.measures["ece"] for row in rows]))  # as in the table: not of all draws together
        errors.append(f"{label(key, rows)} {percent(error)} %")
        name = f"{label(key, rows)}, {rows[0].n_context} rows: calibration error {percent(error)} %"
        axes.plot(at, right, color=color, lw=1.2, marker="o", ms=4, label=name)
        axes.scatter(at, right, s=400 * count / found.number.sum(), color=color, alpha=0.25, lw=0)
    axes.set(xlim=(0, 104), ylim=(0, 104), aspect="equal")
    axes.set_xlabel(f"confidence: probability of the predicted class, %, {BINS} bins")
    queries = results.select(split=split)[0].n_query
    axes.set_ylabel(f"right on {split}, %, {queries} queries")
    title = (
        f"{probe_title(*probes(results, split)[0])}; discs: share of queries; bins of {MIN_QUERIES} queries and more"
    )
    set_title(axes, title)
    legend_below(figure, axes)
    axes.grid(alpha=0.3)
    figure.set_label(
        f"How often TabICL is right on {split} against how certain it is, a line for each of {len(errors)} contexts "
        f"beside the diagonal on which both are equal. Calibration error: {', '.join(errors)}."
    )
    return figure


def strip_plot(results: Results, split: str) -> Figure:
    """Every context's accuracy with TabICL: random draws as points with their mean line, the others with intervals."""
    column, rows = probes(results, split)[0], of_column(results, split)
    figure, axes = new_figure(NARROW, 0.5 * len(rows) + 1.2)
    random = np.random.default_rng(0)  # the jitter of points, nothing else
    for position, (key, group) in enumerate(reversed(rows.items())):
        color = COLORS[key.context if key.context in ("synthetic", "all") else "real"]
        interval = mean_accuracy(results.correct(group))
        middle, low, high = (100 * value for value in interval)
        if len(group) > 1:
            jitter = random.uniform(-0.2, 0.1, len(group))
            axes.scatter([100 * row.accuracy for row in group], position + jitter, s=12, color=color, alpha=0.5, lw=0)
            axes.plot([middle, middle], [position - 0.25, position + 0.2], color=color, lw=2)
        else:
            axes.plot([low, high], [position, position], color=color, lw=2, alpha=0.5)
            axes.scatter(middle, position, s=40, color=color, zorder=3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for position, (key, group) in enumerate(reversed(rows.items())):
        name = f"{label(key, group)}, {group[0].n_context} rows"
        axes.text(0, position + 0.26, name, fontsize=8.5, transform=axes.get_yaxis_transform())
    queries = results.select(split=split)[0].n_query
    axes.set_xlabel(f"accuracy on {split} in %, {queries} queries,\n{probe_title(*column)}")
    axes.set_title("Points: draws or seeds, bar: their mean. Line: 95 % interval (Wilson)", fontsize=8.5, loc="left")
    axes.grid(axis="x", alpha=0.3)
    best = max(rows, key=lambda key: float(results.correct(rows[key]).mean()))
    figure.set_label(
        f"A line for each of {len(rows)} contexts with TabICL's accuracy on {split}; furthest to the right: "
        f"{label(best, rows[best])}, at {percent(results.correct(rows[best]).mean())} %."
    )
    return figure


def score_tables(results: Results) -> list[Table]:
    """Accuracies, and the differences where a synthetic context was scored with TabICL."""
    split = results.shown()
    synthetic = results.select(split=split, context="synthetic", checkpoint="last", probe="tabicl")
    extension = extension_table(results, split)
    return [accuracy_table(results, split), *extension, *([comparison_table(results, split)] if synthetic else [])]


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    split = results.shown()
    calibration = [calibration_table(results, split)] if results.select(split=split, probe="tabicl") else []
    shown = [*score_tables(results), *show_parts.tables(results, split)]
    return [*shown, *(table for table in calibration if table.body), seconds_table(results, split)]


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    split = results.shown()
    if not results.select(split=split, probe="tabicl"):
        return {}
    found = {"contexts": strip_plot(results, split)}
    if any(name.startswith(CONFIDENCE) for name in results.arrays):
        found["reliability"] = reliability_diagram(results, split)
    return found | show_parts.figures(results, split)
