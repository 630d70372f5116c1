import math
from dataclasses import replace

import numpy as np
import pytest

from synthicl.core.statistics import t_interval
from synthicl.report.page import render
from synthicl.studies.few_shot.episodes import estimate_spread
from synthicl.studies.few_shot.show import evaluated, figures, finding, histogram, tables
from synthicl.studies.results import Results, Row

PLAN = {
    "ways": 5, "shots": 1, "within": 0.16, "between": 0.01, "pool": 200,
    "half_width": 0.02, "budget_queries": 126_000.0, "asked": 0.0, "pilot_episodes": 20, "pilot_queries": 50,
    "pilot_pool": 100, "queries": 20, "episodes": 40, "error": 0.02, "wanted": 40, "affordable": 300,
}  # fmt: skip
ROW = Row("few-shot", "episode", 0, 0, 1, "tabicl", "rotated16", "test", "", 0, 0.5, 5, 20, 0.1, 0.02, "train")


def add(results, probe, draw, count, **values):
    row = replace(ROW, probe=probe, draw=draw, accuracy=count / 20, **values)
    results.add(row, (np.arange(20) >= count).astype(np.int64), labels=np.zeros(20, dtype=np.int64))


def make(plan=PLAN, **values):
    """Results of 40 episodes with two probes, and their accuracies."""
    results, random = Results(), np.random.default_rng(0)
    pilot = replace(ROW, context="pilot", split="val", n_query=1000, measures=plan, **values)
    results.add(pilot, np.zeros(1000, dtype=np.int64), labels=np.zeros(1000, dtype=np.int64))
    first = random.binomial(20, 0.8, 40)
    second = np.clip(first + random.integers(-2, 2, 40), 0, 20)
    for draw in reversed(range(40)):  # whatever order they lie in
        add(results, "tabicl", draw, first[draw], **values)
        add(results, "linear", draw, second[draw], preprocessing="", fit_seconds=0.0, **values)
    return results, first / 20, second / 20


def text(interval, sign=""):
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def test_accuracies_and_paired_differences():
    results, first, second = make()
    table = tables(results)[0]
    assert table.title.startswith("5-way 1-shot accuracy in %, 40 episodes of 20 queries on test")
    names = [row[0] for row in table.body]
    assert names == ["TabICL (16 rotated columns)", "logistic regression", "TabICL - logistic regression, points"]
    assert [row[1] for row in table.body] == [
        text(t_interval(first)),
        text(t_interval(second)),
        text(t_interval(first - second), "+"),
    ]


def test_plan_says_what_was_chosen_why_and_what_came_of_it():
    results, first, _ = make()
    table = tables(results)[1]
    assert table.title == "Plan for 5-way 1-shot with TabICL, M = 200 queries to draw from"
    rows = {row[0]: row[1:] for row in table.body}
    spread = estimate_spread(results.correct(results.select(context="episode", probe="tabicl")), 200)
    assert rows["S^2, variance within an episode"][:2] == ["0.1600", f"{spread.within:.4f}"]
    assert rows["queries of an episode (Q)"] == [
        "20",
        "20",
        "sqrt(400 S^2 / (sigma_b^2 - S^2 / M)): an episode costs as much as 400 queries",
    ]
    assert rows["episodes (P)"] == ["40", "40", "the half-width takes 40, 126,000 queries allow 300"]
    assert rows["seconds of an episode"][:2] == ["", "0.140"]
    assert rows["standard error in points"][:2] == ["2.00", f"{100 * first.std(ddof=1) / math.sqrt(40):.2f}"]
    interval = t_interval(first)
    assert rows["half-width in points"] == [
        "3.92",
        f"{50 * (interval.high - interval.low):.2f}",
        "wanted: 2.00, in 90 % of cases",
    ]


@pytest.mark.parametrize(
    ("change", "queries", "episodes"),
    [
        ({"asked": 1.0}, "as asked", "as asked"),
        (
            {"queries": 200, "wanted": 7, "episodes": 30},
            "all there are: the optimum lies there or beyond",
            "the half-width takes 7, 126,000 queries allow 300; never fewer than this",
        ),
        ({"affordable": 40, "wanted": 900}, "sqrt(400", "the half-width takes 900, 126,000 queries allow 40"),
    ],
)
def test_reasons(change, queries, episodes):
    body = tables(make(PLAN | change)[0])[1].body
    reasons = {row[0]: row[3] for row in body}
    assert reasons["queries of an episode (Q)"].startswith(queries)
    assert reasons["episodes (P)"] == episodes


def test_only_episodes_that_all_probes_had_are_compared():
    results, _, _ = make()
    add(results, "tabicl", 40, 3)
    (found,) = evaluated(results)
    assert found.episodes == 40
    for rows in found.rows.values():
        assert [row.draw for row in rows] == list(range(40))


def test_settings_stand_apart():
    results, _, _ = make()
    results.rows |= (other := make(PLAN | {"ways": 5, "shots": 2}, ipc=2, n_context=10)[0]).rows
    results.predictions |= other.predictions
    results.labels |= other.labels
    assert [found.name for found in evaluated(results)] == ["5-way 1-shot", "5-way 2-shot"]
    assert len(tables(results)) == 4
    assert set(figures(results)) == {"5-way-1-shot", "5-way-2-shot"}


def test_histogram_says_what_it_shows():
    results, first, _ = make()
    (found,) = evaluated(results)
    figure = histogram(found)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "accuracy of an episode on test in %, 20 queries each"
    assert axes.get_ylabel() == "episodes out of 40"
    names = [label.get_text() for label in figure.legends[0].get_texts()]
    assert names[0] == f"TabICL (16 rotated columns): {text(t_interval(first))}"
    assert names[1].startswith("logistic regression: ")
    assert render(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("accuracy", [0, 10, 20])
def test_episodes_that_are_all_alike_are_drawn(accuracy):
    results, _, _ = make()
    for draw in range(40):
        add(results, "tabicl", draw, accuracy)
        add(results, "linear", draw, accuracy, preprocessing="")
    assert render(figures(results)["5-way-1-shot"], "png").startswith(b"\x89PNG")


def test_a_pilot_alone_shows_nothing():
    results, _, _ = make()
    for row in results.select(context="episode"):
        del results.rows[row.key]
    assert tables(results) == []
    assert figures(results) == {}
    assert finding(results) == ""


def test_the_finding_compares_with_the_strongest_other_probe():
    results, first, second = make()
    said = finding(results)
    assert said.startswith(f"On test, in 5-way 1-shot episodes TabICL is right on {text(t_interval(first))} %: ")
    low, high = t_interval(first - second)[1:]
    assert ("not told apart from logistic regression" in said) == (low <= 0 <= high)
