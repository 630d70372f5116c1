from dataclasses import replace

import numpy as np
import pytest

from synthicl.core import statistics as intervals
from synthicl.core.statistics import mean_accuracy
from synthicl.report.page import render
from synthicl.studies.results import Results, Row
from synthicl.studies.scaling.compute import PowerLaw, equivalent_rows
from synthicl.studies.scaling.show import (
    accuracy_figure,
    curves,
    figures,
    finding,
    formula,
    reference_curve,
    tables,
    time_figure,
    worth,
)

LABELS = np.zeros(100, dtype=np.int64)
ROW = Row(
    "scaling", "stratified", 0, 0, 1, "tabicl", "rotated16", "test", "", 0, 0.5, 10, 100, 0.1, 0.2, "train",
    measures={"share": 0.1, "classes": 10.0},
)  # fmt: skip
CURVE = {10: (60, 70), 100: (80, 84), 1000: (90, 92), 5000: (94, 94)}  # right answers of two draws


def right(count):
    """Predictions that are right on ``count`` of 100 queries."""
    return (np.arange(100) >= count).astype(np.int64)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 300)


@pytest.fixture
def results():
    results = Results(labels={"test": LABELS})

    def add(count, **values):
        results.add(replace(ROW, accuracy=count / 100, **values), right(count))

    for sampling in ("stratified", "shuffled"):
        for size, counts in CURVE.items():
            for draw, count in enumerate(counts):
                for statistics, preprocessing in (("train", "rotated16"), ("share", f"rotated{min(size - 1, 16)}")):
                    seconds = 0.3 + 1e-5 * size**1.5
                    values = {"statistics": statistics, "preprocessing": preprocessing, "fit_seconds": seconds - 0.2}
                    measures = {"share": size / 10_000, "classes": 10.0 - draw * (sampling == "shuffled")}
                    add(count, context=sampling, draw=draw, n_context=size, measures=measures, **values)
    add(96, context="all", n_context=10_000, fit_seconds=10.1, measures={"share": 1.0, "classes": 10.0})
    return results


def add_synthetic(results, count, checkpoint="last"):
    row = replace(ROW, context="synthetic", checkpoint=checkpoint, accuracy=count / 100, fit_seconds=0.1, measures={})
    results.add(row, right(count))
    return row


def test_all_rows_end_every_curve(results):
    found = curves(results)
    assert set(found) == {(a, b) for a in ("stratified", "shuffled") for b in ("train", "share")}
    for curve in found.values():
        assert [(size, len(rows)) for size, rows in curve] == [(10, 2), (100, 2), (1000, 2), (5000, 2), (10_000, 1)]
    assert reference_curve(results) == found["stratified", "train"]


def test_worth_is_interpolated_on_the_mean_of_the_reference_curve(results):
    row = add_synthetic(results, 86)
    found = worth(results, row, reference_curve(results))
    sizes, means = np.array([10, 100, 1000, 5000, 10_000]), np.array([0.65, 0.82, 0.91, 0.94, 0.96])
    assert found.rows.estimate == pytest.approx(equivalent_rows(sizes, means, 0.86))
    assert found.rows.low <= found.rows.estimate <= found.rows.high
    assert (found.least, found.most, found.whole) == (10, 10_000, True)


@pytest.mark.parametrize(
    ("count", "worth"),
    [
        (86, "278 real ones"),
        (96, "at least all of the real ones (10000)"),
        (99, "at least all of the real ones (10000)"),
        (50, "at most 10 real ones"),
    ],
)
def test_finding(results, count, worth):
    add_synthetic(results, count)
    start, end = finding(results).split(": ")
    assert start.startswith(f"With 10 synthetic rows TabICL is right on {count}.0 [")
    assert end.startswith(f"they are worth {worth}, 95 % interval at ")
    assert "faster" not in end  # seconds were measured at different times


def test_finding_of_a_curve_that_was_cut(results):
    for row in results.select(context="all"):
        del results.rows[row.key]
    add_synthetic(results, 99)
    assert "worth at least 5000 real ones" in finding(results)


def test_without_synthetic_rows_there_is_no_finding(results):
    assert finding(results) == ""


def test_tables(results):
    assert [table.header[0] for table in tables(results)] == ["share"]  # without synthetic rows there is no headline
    add_synthetic(results, 80, "best_on_val")
    add_synthetic(results, 86)
    headline, shares = tables(results)
    assert [row[0] for row in headline.body] == ["synthetic", "synthetic (best on val)"]
    assert headline.body[0][3].startswith("278 [")
    assert len(shares.body) == 4 * 4 + 1
    low, high = (100 * value for value in mean_accuracy(np.stack([right(60) == 0, right(70) == 0]))[1:])
    accuracy = f"65.0 [{low:.1f}, {high:.1f}]"
    first = ["0.1 %", "stratified", "all training rows (16 rotated columns)", "10", "10", "2", accuracy, "0.30"]
    assert shares.body[0] == first
    assert "the share (9 rotated columns)" in [row[2] for row in shares.body]
    assert [row[4] for row in shares.body if row[1] == "shuffled"] == ["9"] * 8
    assert shares.body[-1][:4] == ["100 %", "all", "all training rows (16 rotated columns)", "10000"]


def test_accuracy_figure_says_what_it_shows(results):
    add_synthetic(results, 86)
    figure = accuracy_figure(results)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("context rows", "log")
    assert axes.get_ylabel() == "accuracy on test in %, 100 queries, all classes"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == 5
    assert names[0] == "real, of each class (stratified),\npreprocessing fitted on all training rows"
    assert names[-1] == "synthetic, 10 rows"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [65, 82, 91, 94, 96])


def test_time_figure_has_the_law_or_says_that_there_is_none(results):
    figure = time_figure(results)
    axes = figure.axes[0]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert axes.get_yscale() == axes.get_xscale() == "log"
    assert any(name.startswith(r"$t = 0.3\,") and "n^{1.50}" in name for name in names)
    for row in results.select(n_context=5000) + results.select(n_context=10_000):
        del results.rows[row.key]
    names = [text.get_text() for text in time_figure(results).legends[0].get_texts()]
    assert names[-1].startswith("no power law")


def test_formula():
    text = formula(PowerLaw(0.31, 2.14e-4, 1.318, 0.02))
    assert r"0.31\,\mathrm{s} + 2.1\cdot10^{-4}\,\mathrm{s}\cdot n^{1.32}" in text


def test_figures_are_drawn(results):
    add_synthetic(results, 86)
    drawn = figures(results)
    assert set(drawn) == {"accuracy", "time"}
    assert all(render(figure, "png").startswith(b"\x89PNG") for figure in drawn.values())
    assert figures(Results(labels={"test": LABELS})) == {}
