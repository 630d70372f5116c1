"""What ``trust`` found: calibration before and after, conformal sets, and what novelty tells apart."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from synthicl.core.auroc import auroc_score_interval
from synthicl.core.statistics import wilson
from synthicl.core.words import words
from synthicl.probes.calibration import BINS
from synthicl.probes.conformal import highest_level
from synthicl.report.style import CYCLE, NARROW, legend_below, new_figure
from synthicl.report.table import Table, percent, percent_interval
from synthicl.studies.contexts import rank
from synthicl.studies.results import Results, Row, probe_title
from synthicl.studies.trust.compute import ACCEPTED, LEVELS

BARS = 40  # of the histogram


def rows_of(results: Results) -> list[Row]:
    """The rows, the synthetic ones first, as their calibration is what ``predict`` uses."""
    rows = list(results.rows.values())
    return sorted(rows, key=lambda row: (row.context != "synthetic", row.checkpoint != "last", rank(row.context)))


def label(row: Row) -> str:
    """How a context is called."""
    return f"{words(row.context)}{' (best on val)' if row.checkpoint == 'best_on_val' else ''}"


def scores(results: Results, row: Row, kind: str) -> dict[str, np.ndarray]:
    """Scores of a kind, ``novelty`` or ``confidence``, by what was scored: test first."""
    names = ["test", *row.run["unlike"]]
    return {name: results.arrays[f"trust/{kind}/{name}/{row.key}"] for name in names}


def share(row: Row, measure: str) -> str:
    """A share of the test queries with its interval, in percent."""
    return percent_interval(wilson(round(row.measures[measure] * row.n_query), row.n_query))


def calibration_table(results: Results) -> Table:
    """Each context before and after the temperature of val."""
    body = []
    for row in rows_of(results):
        found = {"cross_entropy": row.cross_entropy, **row.measures}
        for prefix, called in (("", "TabICL"), ("tempered_", "TabICL, temperature from val")):
            cells = [f"{found[prefix + name]:.3f}" for name in ("cross_entropy", "brier")]
            confidence, error = (percent(found[prefix + name]) for name in ("confidence", "ece"))
            at = f"{found['temperature'] if prefix else 1:.2f}"
            body.append([label(row), called, at, percent(row.accuracy), confidence, *cells, error])
    row = rows_of(results)[0]
    title = (
        f"Calibration of {probe_title(row.probe, row.preprocessing)} on test, {row.n_query} queries; temperature from "
        f"{row.measures['val_images']:.0f} images of val; calibration error in {BINS} bins of equal width"
    )
    header = ["context", "probabilities", "temperature", "right, %", "confidence, %", "cross-entropy, nats"]
    return Table(title, [*header, "Brier score, 0 to 2", "calibration error, %"], body)


def coverage_table(results: Results) -> Table:
    """Conformal sets on test, at each level that was asked for."""
    body = []
    for row in rows_of(results):
        for level in LEVELS:
            enough = level <= highest_level(int(row.measures["val_images"]))
            cells = [share(row, f"coverage_{level}"), f"{row.measures[f'size_{level}']:.2f}"]
            alone = percent(row.measures[f"single_{level}"])
            asked = f"{percent(level)}{'' if enough else ' (val is too small)'}"
            body.append([label(row), asked, *cells, alone])
    row = rows_of(results)[0]
    title = (
        f"Conformal sets on test, {row.n_query} queries, 95 % intervals; from {row.measures['val_images']:.0f} images "
        f"of val. A set has one class at least: TabICL's answer, right on {percent(row.accuracy)} % ({label(row)})"
    )
    header = ["context", "asked, %", "holds the true class, %", "classes in a set, mean", "sets of one class, %"]
    return Table(title, header, body)


def novelty_table(results: Results) -> Table:
    """How well each kind of image is told from test, and how much of it is rejected."""
    rows = rows_of(results)
    novelty = scores(results, rows[0], "novelty")
    most = rows[0].measures.get("most_novel", np.inf)
    body = []
    for name, found in novelty.items():
        rejected = percent_interval(wilson(int((found > most).sum()), len(found)))
        areas = [""] * (1 + len(rows))
        if name != "test":
            pairs = [(found, novelty["test"])]
            for row in rows:
                confidence = scores(results, row, "confidence")
                pairs.append((-confidence[name], -confidence["test"]))
            areas = ["{:.3f} [{:.3f}, {:.3f}]".format(*auroc_score_interval(*pair)) for pair in pairs]
        body.append([name, str(len(found)), rejected, *areas])
    title = (
        f"Images unlike the training set: rejected, with {percent(ACCEPTED)} % of val accepted, and the area under the "
        "ROC curve (AUROC) against test, 95 % intervals"
    )
    header = ["images", "n", "rejected, %", "AUROC by novelty"]
    return Table(title, [*header, *(f"AUROC by 1 - confidence, {label(row)}" for row in rows)], body)


def finding(results: Results) -> str:
    """What the sets of 95 % hold, and what is rejected."""
    if not results.rows:
        return ""
    row = rows_of(results)[0]
    coverage, size = share(row, f"coverage_{ACCEPTED}"), row.measures[f"size_{ACCEPTED}"]
    text = (
        f"TabICL with {row.n_context} rows ({label(row)}): sets that are to hold the true class of "
        f"{percent(ACCEPTED)} % hold it on {coverage} % of test, with {size:.2f} classes on average; the temperature "
        f"takes the calibration error from {percent(row.measures['ece'])} to {percent(row.measures['tempered_ece'])} %"
    )
    most = row.measures.get("most_novel", np.inf)
    rejected = {name: percent((found > most).mean()) for name, found in scores(results, row, "novelty").items()}
    return f"{text}. Rejected are {', '.join(f'{value} % of {name}' for name, value in rejected.items())}."


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    if not results.rows:
        return []
    return [calibration_table(results), coverage_table(results), novelty_table(results)]


def histogram(results: Results) -> Figure:
    """Novelty of test and of what is unlike it, with the threshold."""
    row = rows_of(results)[0]
    found = scores(results, row, "novelty")
    positive = {name: np.maximum(values, 1e-6) for name, values in found.items()}
    every = np.concatenate(list(positive.values()))
    edges = np.geomspace(every.min(), every.max() * 1.001, BARS + 1)
    figure, axes = new_figure(NARROW, 4.0)
    for (name, values), color in zip(positive.items(), [CYCLE[0], *CYCLE[1:] * len(found)], strict=False):
        share_of = np.histogram(values, edges)[0] / len(values)
        axes.stairs(
            100 * share_of, edges, color=color, lw=1.8, fill=name == "test", alpha=0.35 if name == "test" else 1
        )
        axes.plot([], [], color=color, lw=3, label=f"{name}, {len(values)} images")
    most = row.measures.get("most_novel")
    if most is not None:
        text = f"{percent(ACCEPTED)} % of val lie to the left"
        axes.axvline(most, color="black", lw=1.2, ls="--", label=text)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("novelty: part of the embedding outside\nof the training images' directions (log)")
    axes.set_ylabel("share of the images, % in each bar")
    legend_below(figure, axes)
    areas = ", ".join(
        f"{name} {auroc_score_interval(values, found['test']).estimate:.3f}"
        for name, values in found.items()
        if name != "test"
    )
    figure.set_label(f"Histograms of novelty for test and other images. AUROC against test: {areas}.")
    return figure


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    return {"novelty": histogram(results)} if results.rows else {}
