"""The table at the end of a run, drawn from results.json and predictions.safetensors alone."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from synthicl.evaluation.intervals import holm, mean_accuracy, paired_difference
from synthicl.evaluation.results import Results, Row

ORDER = ("random", "centroid", "class_mean", "synthetic", "all")


def groups(results: Results, split: str) -> dict[tuple[str, str], list[Row]]:
    """Rows of a split by (context, checkpoint): the known contexts in order, then others by name."""
    names = {(row.context, row.checkpoint) for row in results.select(split=split)}
    rank = {name: position for position, name in enumerate(ORDER)}
    # "last" stands before "best_on_val"
    ordered = sorted(names, key=lambda key: (rank.get(key[0], len(rank)), key[0], key[1] != "last", key[1]))
    return {key: results.select(split=split, context=key[0], checkpoint=key[1]) for key in ordered}


def probes(results: Results, split: str) -> list[tuple[str, str]]:
    """(probe, protocol) pairs of a split, in the order they were scored."""
    return list(dict.fromkeys((row.probe, row.protocol) for row in results.select(split=split)))


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}"


def cell(results: Results, rows: list[Row]) -> str:
    """Accuracy with its interval; for several draws also their spread."""
    if not rows:
        return ""
    correct = results.correct(rows)
    interval = mean_accuracy(correct)
    text = f"{percent(interval.estimate)} [{percent(interval.low)}, {percent(interval.high)}]"
    if len(rows) > 1:
        each = correct.mean(1)
        text += f", each {percent(each.min())} to {percent(each.max())}"
    return text


def label(context: str, checkpoint: str, rows: list[Row]) -> str:
    """How a context is called in a table."""
    draws, seeds = len({row.draw for row in rows}), len({row.seed for row in rows})
    if checkpoint == "best_on_val":
        return f"{context} (best on val)"
    if seeds > 1:
        return f"{context} ({seeds} seeds)"
    return f"{context} ({draws} draws)" if draws > 1 else context


def accuracy_table(results: Results, split: str) -> tuple[str, list[str], list[list[str]]]:
    """Title, header and rows of the accuracy table."""
    columns = probes(results, split)
    first = results.select(split=split)[0]
    title = f"Accuracy on {split} in %, {first.n_query} queries, 95 % intervals"
    header = ["context", "rows", *(f"{probe} ({protocol})" if protocol else probe for probe, protocol in columns)]
    body = []
    for (context, checkpoint), rows in groups(results, split).items():
        cells = [cell(results, [row for row in rows if (row.probe, row.protocol) == column]) for column in columns]
        body.append([label(context, checkpoint, rows), str(rows[0].n_context), *cells])
        draw = best_random_draw(results, columns[0]) if checkpoint == "best_on_val" else None
        if draw is not None:
            chosen = results.select(split=split, context="random", draw=draw)
            cells = [cell(results, [row for row in chosen if (row.probe, row.protocol) == pair]) for pair in columns]
            body.append(["random (best draw on val)", str(rows[0].n_context), *cells])
    return title, header, body


def best_random_draw(results: Results, column: tuple[str, str]) -> int | None:
    """The random draw that a (probe, protocol) scores highest on val: what choosing on val gives without optimising."""
    draws = results.select(split="val", context="random", probe=column[0], protocol=column[1])
    return max(draws, key=lambda row: row.accuracy).draw if draws else None


def comparison_table(results: Results, split: str) -> tuple[str, list[str], list[list[str]]]:
    """Synthetic minus every other context, TabICL, paired on the queries; the comparisons are fixed in advance."""
    synthetic = results.select(split=split, context="synthetic", checkpoint="last", probe="tabicl")
    protocol = synthetic[-1].protocol  # one of them, if the run was evaluated with several
    rows = {
        key: [row for row in group if (row.probe, row.protocol) == ("tabicl", protocol)]
        for key, group in groups(results, split).items()
    }
    names = [key for key in rows if key[0] != "synthetic" and rows[key]]
    correct = results.correct(rows["synthetic", "last"])
    comparisons = [paired_difference(correct, results.correct(rows[key])) for key in names]
    adjusted = holm([comparison.p_value for comparison in comparisons])
    body = []
    for key, comparison, p_value in zip(names, comparisons, adjusted, strict=True):
        difference = comparison.difference
        interval = f"{100 * difference.estimate:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
        body.append([f"synthetic - {key[0]}", interval, f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"])
    title = f"Points on {split} with TabICL ({protocol}), paired on the queries"
    return title, ["difference", "points [95 % interval]", "p (Holm)"], body


def print_tables(results: Results, split: str) -> None:
    """Print both tables to the terminal."""
    console = Console(width=max(Console().width, 160), highlight=False)  # tables are as wide as their cells need
    for title, header, body in (accuracy_table(results, split), comparison_table(results, split)):
        table = Table(title=title, title_justify="left")
        for position, name in enumerate(header):
            table.add_column(name, justify="left" if position == 0 else "right")
        for row in body:
            table.add_row(*row)
        console.print(table)


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *body)]
    return "\n".join(lines)
