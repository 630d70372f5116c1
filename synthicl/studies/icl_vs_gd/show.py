"""What ``icl-vs-gd`` found: how near gradient descent comes to TabICL, and after how much of it."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from synthicl.core.statistics import mean_accuracy
from synthicl.core.words import words
from synthicl.report.style import COLORS, CYCLE, LINE, NARROW, new_figure, set_title
from synthicl.report.table import Table, number, percent, percent_interval
from synthicl.studies.icl_vs_gd.compute import CURVES
from synthicl.studies.results import Results, Row, probe_title

PANELS = {
    "agreement": "test queries given the same class, %",
    "squared_difference": "mean squared difference of probabilities (0 to 2)",
}
STYLES = ("-", "--", ":", "-.")  # of the learning rates
RULES = {"first_step": "first step", "linear": "logistic regression", "nearest_row": "nearest row"}
MARKERS = {"first_step": "v", "linear": "s", "nearest_row": "^", "truth": "x"}
NEAR = 0.02  # agreement closer than this is no sign of a rule of its own; named before the tables were made


def groups(results: Results) -> dict[str, list[tuple[Row, Row]]]:
    """The rows on test of TabICL and of gradient descent on the same context, by the context's name in words.

    Where a context was made in several sizes, the name says which.
    """
    found: dict[str, list[tuple[Row, Row]]] = {}
    rows = results.select(split="test", probe="gradient_descent")
    for descent in rows:
        tabicl = results.rows[replace(descent, probe="tabicl").key]
        sizes = {row.ipc for row in rows if row.context == descent.context}
        name = words(descent.context) + (f", {descent.ipc} per class" if len(sizes) > 1 else "")
        found.setdefault(name, []).append((tabicl, descent))
    return found


def matches(results: Results, tabicl: list[Row], rule: str) -> np.ndarray | None:
    """Which queries a rule, or the truth, gives TabICL's class, (rows, q), bool; None where it was not asked."""
    if rule == "truth":
        return results.correct(tabicl)
    rows = [results.rows.get(replace(row, probe=rule).key) for row in tabicl]
    if None in rows:
        return None
    pairs = zip(tabicl, rows, strict=True)
    return np.stack([results.predictions[a.key] == results.predictions[b.key] for a, b in pairs if b])


def mean(rows: list[Row], measure: str) -> float:
    """Mean of a measure over rows."""
    return float(np.mean([row.measures[measure] for row in rows]))


def time(descent: Row) -> float:
    """K times the learning rate, as chosen on val."""
    return descent.measures["steps"] * descent.measures["learning_rate"]


def tables(results: Results) -> list[Table]:
    """One row for each context: gradient descent as chosen on val, beside TabICL and TabICL's own variation."""
    if not groups(results):  # an evaluation that was interrupted early
        return []
    body = []
    for name, pairs in groups(results).items():
        tabicl, descent = ([pair[side] for pair in pairs] for side in (0, 1))
        same = np.stack([results.predictions[a.key] == results.predictions[b.key] for a, b in pairs])
        times = [time(row) for row in descent]
        body.append(
            [
                f"{name} ({len(pairs)} draws)" if len(pairs) > 1 else name,
                str(descent[0].n_context),
                number(min(times))
                + (f" to {number(max(times))}" if max(times) > min(times) else "")
                + (" (edge)" if any(row.measures.get("on_edge") for row in descent) else ""),
                percent_interval(mean_accuracy(results.correct(tabicl))),
                percent_interval(mean_accuracy(results.correct(descent))),
                percent_interval(mean_accuracy(same)),
                percent(mean(tabicl, "self_agreement")),
                f"{mean(descent, 'squared_difference'):.4f}",
                f"{mean(tabicl, 'self_squared_difference'):.4f}",
            ]
        )
    header = ["context", "rows", "steps x rate", "TabICL right", "descent right", "same class", "TabICL twice"]
    header += ["squared difference", "TabICL twice"]
    row = results.select(split="test")[0]
    title = (
        f"{probe_title('tabicl', row.preprocessing)} and gradient descent on a softmax probe from W = 0, b = 0, same "
        f"context; {row.n_query} test queries, % with 95 % intervals; val chose steps x rate, the number of steps "
        "times the learning rate; TabICL twice: with other shuffles"
    )
    if any(row.measures.get("on_edge") for row in results.select(split="test", probe="gradient_descent")):
        title += "; edge: of the steps or learning rates that were tried, more may come nearer"
    return [Table(title, header, body), *rules_table(results)]


def rules_table(results: Results) -> list[Table]:
    """Agreement with TabICL of rules that nobody fitted to it, beside gradient descent stopped nearest to it."""
    body, near = [], []
    for name, pairs in groups(results).items():
        tabicl = [pair[0] for pair in pairs]
        same = {rule: matches(results, tabicl, rule) for rule in ("gradient_descent", *RULES, "truth")}
        found = {rule: values for rule, values in same.items() if values is not None}
        if len(found) < len(same):  # rows of before there were rules
            continue
        cells = [percent_interval(mean_accuracy(values)) for values in found.values()]
        body.append([name, str(tabicl[0].n_context), *cells, percent(mean(tabicl, "self_agreement"))])
        if found["gradient_descent"].mean() - max(found[rule].mean() for rule in RULES) < NEAR:
            near.append(name)
    if not body:
        return []
    title = (
        "Test queries given TabICL's class, %, 95 % intervals; all rules see TabICL's columns, and only the stopped "
        "descent was fitted to it"
    )
    if near:
        title += (
            f". On {'; '.join(near)} an untuned rule comes within {100 * NEAR:.0f} points of the stopped descent: "
            "there agreement speaks for a rule that is nearly linear, not for gradient descent"
        )
    header = ["context", "rows", "stopped descent", *RULES.values(), "truth", "TabICL twice"]
    return [Table(title, header, body)]


def paths(results: Results) -> Figure:
    """Agreement and squared difference of probabilities against steps times rate, by context and learning rate."""
    figure, only = new_figure(NARROW, 8.6)
    only.remove()
    panels = figure.subplots(2, 1)
    found = groups(results)
    others = cycle(color for color in CYCLE if color != COLORS["synthetic"])
    colors = {name: COLORS["synthetic"] if name == "synthetic" else next(others) for name in found}
    rates: list[float] = []
    for name, pairs in found.items():
        width, alpha = (1.0, 0.55) if len(pairs) > 1 else (1.8, 1.0)
        for tabicl, descent in pairs:
            at, *curves = results.arrays[CURVES + descent.key]
            rates = max(rates, descent.run["learning_rates"], key=len)
            for axes, measure, values in zip(panels, PANELS, curves, strict=True):
                scale = 100 if measure == "agreement" else 1
                for k_lr, line, style in zip(at, scale * values, STYLES * len(at), strict=False):
                    axes.plot(k_lr[1:], line[1:], ls=style, color=colors[name], lw=width, alpha=alpha)
                dot = scale * descent.measures[measure]
                axes.plot(time(descent), dot, "o", ms=6, color=colors[name], mec="black", mew=0.7, zorder=5)
                itself = scale * tabicl.measures[f"self_{measure}"]
                axes.plot(2 * at.max(), itself, "<", ms=7, color=colors[name], mec="black", mew=0.7, alpha=alpha)
        for place, (rule, marker) in enumerate(MARKERS.items(), 2):
            same = matches(results, [tabicl for tabicl, _ in pairs], rule)
            if same is not None:
                height = 100 * same.mean()
                panels[0].plot(2**place * at.max(), height, marker, ms=6, color=colors[name], mec=colors[name])
    panels[1].set_yscale("log")
    chance = f" (chance: {100 / len(np.unique(results.labels['test'])):.3g})"
    for axes, text, note in zip(panels, PANELS.values(), (chance, ""), strict=True):
        axes.set(xscale="log", xlabel="number of steps times learning rate")
        set_title(axes, text + note)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    handles = []
    for name, pairs in found.items():
        draws = f", {len(pairs)} draws" if len(pairs) > 1 else ""
        handles.append(Line2D([], [], color=colors[name], lw=2, label=f"{name}, {pairs[0][0].n_context} rows{draws}"))
    handles += [
        Line2D([], [], color="black", lw=1.2, ls=style, label=f"learning rate {rate:g}")
        for rate, style in zip(rates, STYLES * len(rates), strict=False)
    ]
    handles += [
        Line2D([], [], color="black", lw=0, marker="o", ms=6, label="chosen on val"),
        Line2D([], [], color="black", lw=0, marker="<", ms=7, label="TabICL twice, other shuffles"),
        *(
            Line2D([], [], color="black", lw=0, marker=marker, ms=6, label=RULES.get(rule, rule))
            for rule, marker in MARKERS.items()
        ),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=1, frameon=False, fontsize=8.5)
    row = results.select(split="test")[0]
    text = (
        f"Gradient descent on a softmax probe against {probe_title('tabicl', row.preprocessing)} on the same context; "
        f"{row.n_query} test queries"
    )
    figure.suptitle(textwrap.fill(text, LINE), fontsize=9)
    figure.set_label(
        "Above: share of test queries to which gradient descent and TabICL give the same class, against steps times "
        f"learning rate, a line for each of {len(found)} contexts and each learning rate. Below: how far their "
        "probabilities are apart. Triangles to the left: TabICL against itself. Other marks: untuned "
        "rules and the truth."
    )
    return figure


def finding(results: Results) -> str:
    """How often both give the same class, beside TabICL with itself; of the synthetic rows, or of the last context."""
    found = groups(results)
    if not found:
        return ""
    name = "synthetic" if "synthetic" in found else list(found)[-1]
    tabicl, descent = ([pair[side] for pair in found[name]] for side in (0, 1))
    same = np.stack([results.predictions[a.key] == results.predictions[b.key] for a, b in found[name]])
    return (
        f"On {name} rows gradient descent gives {percent_interval(mean_accuracy(same))} % of the test queries "
        f"TabICL's class; TabICL under other shuffles gives its own class to {percent(mean(tabicl, 'self_agreement'))} "
        f"%, and the probabilities of both lie {mean(descent, 'squared_difference'):.4f} apart in squared distance, "
        f"TabICL's own {mean(tabicl, 'self_squared_difference'):.4f}."
    ) + untuned(results, tabicl)


def untuned(results: Results, tabicl: list[Row]) -> str:
    """What rules that nobody fitted to TabICL do on the same context, as a sentence; empty where none was asked."""
    found = {RULES[rule]: matches(results, tabicl, rule) for rule in RULES}
    shares = [f"{name} {percent(same.mean())}" for name, same in found.items() if same is not None]
    return f" Rules that nobody fitted to TabICL give its class to, in %: {', '.join(shares)}." if shares else ""


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    return {"paths": paths(results)} if groups(results) else {}
