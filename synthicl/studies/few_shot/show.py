"""What ``few-shot`` found: accuracy over episodes with its interval, and the plan behind it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from synthicl.core.statistics import Interval, t_interval
from synthicl.core.words import words
from synthicl.report.style import CYCLE, NARROW, legend_below, new_figure, set_title
from synthicl.report.table import Table, against, percent, percent_interval
from synthicl.studies.few_shot.episodes import ASSURANCE, EPISODE_COST, Spread, estimate_spread
from synthicl.studies.results import Results, Row, probe_title


class Evaluated(NamedTuple):
    """The episodes of one N-way K-shot setting.

    Attributes:
        plan: measures of the pilot's row.
        rows: of every probe, one for each episode, the same episodes in the same order.
    """

    plan: dict[str, float]
    rows: dict[str, list[Row]]

    @property
    def name(self) -> str:
        """For example ``5-way 1-shot``."""
        return f"{self.plan['ways']:.0f}-way {self.plan['shots']:.0f}-shot"

    @property
    def episodes(self) -> int:
        """How many were scored, fewer than planned in a run that was cut off."""
        return min((len(rows) for rows in self.rows.values()), default=0)

    def accuracies(self, probe: str) -> np.ndarray:
        """Accuracy of each episode, (P,)."""
        return np.array([row.accuracy for row in self.rows[probe]])


def evaluated(results: Results) -> list[Evaluated]:
    """All settings that were evaluated with two episodes at least."""
    found = []
    for pilot in results.select(context="pilot"):
        if "budget_queries" not in pilot.measures:  # planned by seconds, before version 0.2
            continue
        rows = results.select(context="episode", ipc=pilot.ipc, n_context=pilot.n_context, seed=pilot.seed)
        draws: dict[str, dict[int, Row]] = {}
        for row in rows:
            draws.setdefault(row.probe, {})[row.draw] = row
        shared = sorted(set.intersection(*(set(each) for each in draws.values()))) if draws else []
        if len(shared) > 1:
            found.append(Evaluated(pilot.measures, {name: [each[i] for i in shared] for name, each in draws.items()}))
    return found


def interval(accuracies: np.ndarray) -> Interval:
    """Mean over episodes with Student's interval, within [0, 1]."""
    mean, low, high = t_interval(accuracies)
    return Interval(mean, max(low, 0.0), min(high, 1.0))


def accuracy_table(found: Evaluated) -> Table:
    """Probes beside each other, and the differences from the first one, paired on the episodes."""
    first, *others = found.rows
    body = []
    for name in found.rows:
        accuracies = found.accuracies(name)
        low, high = np.percentile(accuracies, [5, 95])
        spread = f"{percent(low)} to {percent(high)}"
        body.append([title_of(found, name), percent_interval(interval(accuracies)), spread])
    for name in others:
        difference = t_interval(found.accuracies(first) - found.accuracies(name))
        body.append([f"{words(first)} - {words(name)}, points", percent_interval(difference, sign="+"), ""])
    counts = f"{found.episodes} episodes of {found.rows[first][0].n_query} queries on test, contexts from train"
    header = ["probe", "mean [95 % interval over episodes of these images]", "nine episodes in ten"]
    return Table(f"{found.name} accuracy in %, {counts}; differences are paired", header, body)


def title_of(found: Evaluated, probe: str) -> str:
    """A probe with its preprocessing in brackets."""
    return probe_title(probe, found.rows[probe][0].preprocessing)


def plan_table(results: Results, found: Evaluated) -> Table:
    """What the pilot found, what was chosen and why, and what came of it."""
    plan = found.plan
    first, rows = next(iter(found.rows.items()))
    pool, half = plan["pool"], interval(found.accuracies(first))
    measured = estimate_spread(results.correct(rows), pool) if rows[0].n_query > 1 else Spread(math.nan, math.nan)
    each = [sum(pair) for pair in zip(*(map(seconds, rows) for rows in found.rows.values()), strict=True)]
    pilot = f"pilot on val: {plan['pilot_episodes']:.0f} episodes of {plan['pilot_queries']:.0f} queries"
    body = [
        ["S^2, variance within an episode", f"{plan['within']:.4f}", f"{measured.within:.4f}", pilot],
        ["sigma_b^2, variance between episodes", f"{plan['between']:.4f}", f"{measured.between:.4f}", pilot],
        ["queries of an episode (Q)", f"{plan['queries']:.0f}", f"{rows[0].n_query}", queries_reason(plan)],
        ["episodes (P)", f"{plan['episodes']:.0f}", f"{found.episodes}", episodes_reason(plan)],
        ["seconds of an episode", "", f"{np.median(each):.3f}", "median, all probes together"],
        [
            "standard error in points",
            f"{100 * plan['error']:.2f}",
            f"{100 * found.accuracies(first).std(ddof=1) / math.sqrt(found.episodes):.2f}",
            "sqrt((sigma_b^2 + S^2 (1/Q - 1/M)) / P)",
        ],
        [
            "half-width in points",
            f"{196 * plan['error']:.2f}",
            f"{50 * (half.high - half.low):.2f}",
            f"wanted: {100 * plan['half_width']:.2f}, in {100 * ASSURANCE:.0f} % of cases",
        ],
    ]
    title = f"Plan for {found.name} with {words(first)}, M = {pool:.0f} queries to draw from"
    return Table(title, ["quantity", "planned", "measured on test", "from"], body)


def queries_reason(plan: dict[str, float]) -> str:
    """Why an episode has so many queries."""
    if plan["asked"]:
        return "as asked"
    if plan["queries"] == plan["pool"]:
        return "all there are: the optimum lies there or beyond"
    return f"sqrt({EPISODE_COST} S^2 / (sigma_b^2 - S^2 / M)): an episode costs as much as {EPISODE_COST} queries"


def episodes_reason(plan: dict[str, float]) -> str:
    """Why there are so many episodes."""
    if plan["asked"]:
        return "as asked"
    allowed = f"{plan['budget_queries']:,.0f} queries allow {plan['affordable']:.0f}"
    numbers = f"the half-width takes {plan['wanted']:.0f}, {allowed}"
    least = plan["episodes"] > min(plan["wanted"], plan["affordable"])
    return f"{numbers}{'; never fewer than this' if least else ''}"


def seconds(row: Row) -> float:
    """Time to fit and to predict."""
    return row.fit_seconds + row.predict_seconds


def histogram(found: Evaluated) -> Figure:
    """Accuracies of the episodes with the mean and its interval, every probe in its own colour."""
    figure, axes = new_figure(NARROW, 4.6)
    queries = next(iter(found.rows.values()))[0].n_query
    right = [round(queries * value) for name in found.rows for value in found.accuracies(name)]
    # Accuracies are multiples of 1/Q: every bin holds the same number of them. About 2 P^(1/3) bins (Rice's rule).
    step = math.ceil((max(right) - min(right) + 1) / (2 * found.episodes ** (1 / 3)))
    edges = list(100 * (np.arange(max(right), min(right) - step - 1, -step)[::-1] + 0.5) / queries)
    for color, name in zip(CYCLE, found.rows, strict=False):
        accuracies = found.accuracies(name)
        mean, low, high = (100 * value for value in interval(accuracies))
        label = f"{title_of(found, name)}: {mean:.1f} [{low:.1f}, {high:.1f}]"
        axes.hist(100 * accuracies, edges, histtype="stepfilled", color=color, alpha=0.25)
        axes.hist(100 * accuracies, edges, histtype="step", color=color)
        axes.axvline(mean, color=color, lw=1.5, label=label)
        axes.axvspan(low, high, color=color, alpha=0.3, lw=0)
    axes.set_xlabel(f"accuracy of an episode on test in %, {queries} queries each")
    axes.set_ylabel(f"episodes out of {found.episodes}")
    title = (
        f"{found.name}: the same episodes for every probe; lines: means with 95 % intervals (Student, over episodes)"
    )
    set_title(axes, title)
    axes.margins(x=0.02)
    legend_below(figure, axes)
    means = ", ".join(f"{words(name)} at {percent(found.accuracies(name).mean())} %" for name in found.rows)
    figure.set_label(
        f"Histograms of the accuracy of {found.episodes} {found.name} episodes, with their means: {means}."
    )
    return figure


def finding(results: Results) -> str:
    """How the first probe does beside the others, in each setting."""
    parts = []
    for found in evaluated(results):
        first, *others = found.rows
        accuracy = percent_interval(interval(found.accuracies(first)))
        text = f"in {found.name} episodes {words(first)} is right on {accuracy} %"
        differences = {name: t_interval(found.accuracies(first) - found.accuracies(name)) for name in others}
        if differences:
            rival = min(differences, key=lambda name: differences[name].estimate)
            told = not differences[rival].low <= 0 <= differences[rival].high
            text += f": {against(words(rival), differences[rival], told)}"
        parts.append(text)
    return f"On test, {'; '.join(parts)}." if parts else ""


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    return [table for found in evaluated(results) for table in (accuracy_table(found), plan_table(results, found))]


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    return {found.name.replace(" ", "-"): histogram(found) for found in evaluated(results)}
