"""What ``scaling`` found: accuracy and time against context rows, and how many real rows synthetic ones are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from synthicl.core.statistics import Interval, bootstrap_means, mean_accuracy
from synthicl.core.words import words
from synthicl.report.style import COLORS, CYCLE, NARROW, legend_below, new_figure, set_title
from synthicl.report.table import Table, percent_interval
from synthicl.studies.results import Results, Row
from synthicl.studies.scaling.compute import PowerLaw, equivalent_rows, fit_power_law

SAMPLINGS = {"stratified": "of each class (stratified)", "shuffled": "of all rows (shuffled)"}
FITTED_ON = {"train": "all training rows", "share": "the share", "context": "nothing"}
REFERENCE = ("stratified", ("train", "context"))  # sampling and statistics of the curve that others are measured with

Curve = list[tuple[int, list[Row]]]
"""Numbers of context rows, increasing, each with the rows of its draws."""


def curves(results: Results) -> dict[tuple[str, str], Curve]:
    """A curve for each (sampling, statistics); all training rows end every one of them."""
    found: dict[tuple[str, str], Curve] = {}
    everything = results.select(split="test", context="all")
    for sampling in SAMPLINGS:
        for statistics in FITTED_ON:
            rows = results.select(split="test", context=sampling, statistics=statistics)
            sizes = sorted({row.n_context for row in rows})
            if rows:
                curve = [(size, [row for row in rows if row.n_context == size]) for size in sizes]
                found[sampling, statistics] = curve + [(row.n_context, [row]) for row in everything]
    return found


def reference_curve(results: Results) -> Curve:
    """The stratified curve with statistics of all training rows; empty if it was not measured."""
    sampling, statistics = REFERENCE
    return next((curve for key, curve in curves(results).items() if key[0] == sampling and key[1] in statistics), [])


def seconds(rows: list[Row]) -> float:
    """Time to fit and to predict, the median over draws."""
    return float(np.median([row.fit_seconds + row.predict_seconds for row in rows]))


class Worth(NamedTuple):
    """What a synthetic context is worth.

    Attributes:
        rows: real rows with which its accuracy is reached, with the 95 % interval; infinite beyond the curve's end.
        least: rows at the start of the curve.
        most: rows at its end.
        whole: whether these are all training rows.
    """

    rows: Interval
    least: int
    most: int
    whole: bool


def worth(results: Results, synthetic: Row, curve: Curve) -> Worth:
    """Interpolate on a curve; the interval is of a bootstrap that resamples the same queries for every context."""
    sizes = np.array([size for size, _ in curve], dtype=float)
    means = np.array([results.correct(rows).mean() for _, rows in curve])
    estimate = equivalent_rows(sizes, means, synthetic.accuracy)
    resampled = np.stack([bootstrap_means(results.correct(rows)) for _, rows in curve], axis=1)
    reached = bootstrap_means(results.correct([synthetic]))
    each = [equivalent_rows(sizes, *pair) for pair in zip(resampled, reached, strict=True)]
    low, high = np.percentile(each, [2.5, 97.5], method="nearest")  # there is no mean of infinity and a number
    whole = curve[-1][1][0].context == "all"
    return Worth(Interval(estimate, float(low), float(high)), curve[0][0], curve[-1][0], whole)


def number(rows: float, found: Worth) -> str:
    """A number of real rows; the curve tells nothing beyond its ends."""
    if rows >= found.most:
        return f"at least {found.most}"
    return f"at most {found.least}" if rows <= found.least else f"{rows:.0f}"


def finding(results: Results) -> str:
    """What the synthetic context is worth; empty where it cannot be said."""
    found = all_worth(results)
    if not found:
        return ""
    synthetic, each = found[0]
    estimate, low, high = (number(value, each) for value in each.rows)
    real = f"{estimate} real ones"
    if each.whole and each.rows.estimate >= each.most:
        real = f"at least all of the real ones ({each.most})"
    accuracy = percent_interval(mean_accuracy(results.correct([synthetic])))
    return (
        f"With {synthetic.n_context} synthetic rows TabICL is right on {accuracy} % of test: they are worth {real}, "
        f"95 % interval {low} to {high}."
    )


def all_worth(results: Results) -> list[tuple[Row, Worth]]:
    """What each synthetic context is worth, the last state first; empty without a curve to measure it with."""
    synthetic = sorted(results.select(split="test", context="synthetic"), key=lambda row: row.checkpoint != "last")
    curve = reference_curve(results)
    return [(row, worth(results, row, curve)) for row in synthetic] if curve else []


def worth_table(results: Results) -> Table | None:
    """What the finding rests on; None without a synthetic context or without the curve to measure it with."""
    found = all_worth(results)
    body = []
    for row, each in found:
        real, low, high = (number(value, each) for value in each.rows)
        name = "synthetic (best on val)" if row.checkpoint == "best_on_val" else "synthetic"
        accuracy = percent_interval(mean_accuracy(results.correct([row])))
        body.append([name, str(row.n_context), accuracy, f"{real} [{low}, {high}]"])
    header = ["context", "rows", "accuracy on test in %", "worth real rows [95 % interval]"]
    title = "What the synthetic rows are worth, on the curve of stratified shares"
    return Table(title, header, body) if found else None


def share_table(results: Results) -> Table:
    """Every point of every curve."""
    points = [
        (sampling, rows)
        for (sampling, _), curve in curves(results).items()
        for _, rows in curve
        if rows[0].context != "all"
    ]
    points += [("all", [row]) for row in results.select(split="test", context="all")]
    body = []
    for drawn, rows in points:
        body.append(
            [
                f"{100 * rows[0].measures['share']:.3g} %",
                drawn,
                f"{FITTED_ON[rows[0].statistics]} ({words(rows[0].preprocessing)})",
                str(rows[0].n_context),
                f"{min(row.measures['classes'] for row in rows):.0f}",
                str(len(rows)),
                percent_interval(mean_accuracy(results.correct(rows))),
                f"{seconds(rows):.2f}",
            ]
        )
    header = [
        "share",
        "drawn",
        "preprocessing fitted on",
        "rows",
        "classes (fewest)",
        "draws",
        "accuracy in %",
        "seconds",
    ]
    queries = results.select(split="test")[0].n_query
    title = f"TabICL with shares of the training rows on test, {queries} queries, 95 % intervals"
    return Table(f"{title}; seconds to fit and to predict, median", header, body)


def accuracy_figure(results: Results) -> Figure:
    """Accuracy against context rows, a line for each sampling and statistics, and the synthetic rows as a point."""
    figure, axes = new_figure(NARROW, 6.0)
    found = curves(results)
    for (sampling, statistics), curve in found.items():
        color = COLORS["real"] if sampling == "stratified" else CYCLE[3]
        style = "--" if statistics == "share" else "-"
        sizes = [size for size, _ in curve]
        middle, low, high = 100 * np.array([mean_accuracy(results.correct(rows)) for _, rows in curve]).T
        name = f"real, {SAMPLINGS[sampling]},\npreprocessing fitted on {FITTED_ON[statistics]}"
        axes.plot(sizes, middle, style, color=color, marker="o", ms=4, label=name)
        if statistics != "share":  # bands upon bands tell nothing; the table has them all
            axes.fill_between(sizes, low, high, color=color, alpha=0.15, lw=0)
    for row in results.select(split="test", context="synthetic", checkpoint="last"):
        middle, low, high = (100 * value for value in mean_accuracy(results.correct([row])))
        error = [[middle - low], [high - middle]]
        axes.errorbar(row.n_context, middle, error, fmt="*", ms=13, capsize=3, color=COLORS["synthetic"], zorder=4)
        axes.axhline(middle, color=COLORS["synthetic"], lw=0.8, ls=":")
        axes.plot([], [], "*", ms=11, color=COLORS["synthetic"], label=f"synthetic, {row.n_context} rows")
    first = results.select(split="test")[0]
    draws = max(len(rows) for curve in found.values() for _, rows in curve)
    mark_rows(axes, [row.n_context for row in results.select(split="test")])
    axes.set_ylabel(f"accuracy on test in %, {first.n_query} queries, all classes")
    set_title(axes, f"TabICL: mean of up to {draws} draws; bands (of solid lines) and bar: 95 % intervals")
    legend_below(figure, axes)
    figure.set_label(
        "TabICL's accuracy on test against the number of context rows, on a logarithmic axis: lines for growing shares "
        "of the real rows, and a star for the synthetic ones. Where the dotted line of the star meets the curve is "
        "what they are worth."
    )
    return figure


def time_figure(results: Results) -> Figure:
    """Time against context rows with the power law that was fitted to the medians."""
    figure, axes = new_figure(NARROW, 4.6)
    real = [row for row in results.select(split="test") if row.context != "synthetic" and row.statistics != "share"]
    sizes = sorted({row.n_context for row in real})
    medians = [seconds([row for row in real if row.n_context == size]) for size in sizes]
    times = [row.fit_seconds + row.predict_seconds for row in real]
    axes.scatter(
        [row.n_context for row in real], times, s=12, color=COLORS["real"], alpha=0.35, lw=0, label="real, single draws"
    )
    axes.plot(sizes, medians, "o", ms=6, color=COLORS["real"], label="real, median")
    law = fit_power_law(np.array(sizes, dtype=float), np.array(medians))
    grid = np.geomspace(sizes[0], sizes[-1], 200)
    if law is not None:
        axes.plot(grid, law.a + law.b * grid**law.p, color=COLORS["all"], lw=1.5, label=formula(law))
    else:
        axes.plot([], [], " ", label="no power law: too few sizes, too little growth, or one size decides it")
    # Synthetic rows are scored once, outside the turns: their seconds are of another load.
    first = results.select(split="test")[0]
    mark_rows(axes, sizes)
    axes.set_yscale("log")
    plain_numbers(axes.yaxis, times)
    axes.set_ylabel(f"seconds to fit and to predict {first.n_query} queries")
    set_title(axes, "TabICL: wall-clock time of every draw; the preprocessing's own fit is not in it")
    legend_below(figure, axes)
    growth = "no power law fits"
    if law is not None:
        growth = f"a constant {law.a:.2f} s, and a part that grows as rows to the power of {law.p:.2f}"
    figure.set_label(
        f"Seconds to fit TabICL and to predict against context rows, from {medians[0]:.2f} s with {sizes[0]} rows to "
        f"{medians[-1]:.2f} s with {sizes[-1]}: {growth}."
    )
    return figure


def formula(law: PowerLaw) -> str:
    """A power law as a formula."""
    digits, exponent = f"{law.b:.1e}".split("e")
    factor = rf"{digits}\cdot10^{{{int(exponent)}}}"
    power = rf"{factor}\,\mathrm{{s}}\cdot n^{{{law.p:.2f}}}"
    return rf"$t = {law.a:.2g}\,\mathrm{{s}} + {power}$ (exponent $\pm${law.error:.2f}, standard error)"


def mark_rows(axes: Axes, sizes: list[int]) -> None:
    """A logarithmic axis of context rows."""
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, sizes)
    axes.set_xlabel("context rows")
    axes.grid(alpha=0.3)


def plain_numbers(axis: Axis, values: Sequence[float]) -> None:
    """Mark a logarithmic axis in numbers without powers of ten, as many as its range has room for."""
    ratio = max(values) / min(values)
    axis.set_major_locator(LogLocator(subs=(1,) if ratio > 300 else (1, 2, 5) if ratio > 6 else range(1, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    headline_table = worth_table(results)
    return [*([headline_table] if headline_table else []), share_table(results)]


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    return {"accuracy": accuracy_figure(results), "time": time_figure(results)} if curves(results) else {}
