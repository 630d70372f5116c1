"""What ``boundary`` found: maps of decisions, how often contexts agree, and which context rows queries attend to."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from synthicl.core.statistics import holm, mean_accuracy, paired_difference
from synthicl.core.words import words
from synthicl.report.style import COLORS, NARROW, new_figure
from synthicl.report.table import Table, against, percent, percent_interval
from synthicl.studies.contexts import rank
from synthicl.studies.results import Results, Row, probe_title

COMPARED_WITH = ("synthetic", "all")
MAX_MARKS = 100  # context rows that are marked on a map
MAX_DOTS = 600  # test embeddings that are drawn on a map
ACROSS = 2  # maps side by side


def mapped(results: Results) -> list[Row]:
    """The rows that have a map, in the usual order of contexts."""
    rows = [row for row in results.rows.values() if f"boundary/class/{row.key}" in results.arrays]
    return sorted(rows, key=lambda row: (rank(row.context), row.context))


def class_names(results: Results) -> list[str]:
    """Name of each class index, as matplotlib shows it: a dollar sign begins no formula."""
    return results.arrays["boundary/class_names"].tobytes().decode().replace("$", r"\$").split("\0")


def cut(name: str) -> str:
    """A class name for where there is little room."""
    return name if len(name) <= 16 else f"{name[:15]}…"


def array(results: Results, name: str, row: Row) -> np.ndarray:
    """What was measured of a context."""
    return results.arrays[f"boundary/{name}/{row.key}"]


def same_class(results: Results, row: Row, other: Row) -> np.ndarray:
    """Which test queries two contexts give the same class, (1, q), bool."""
    same: np.ndarray = (results.predictions[row.key] == results.predictions[other.key])[None]
    return same


def agreement_table(results: Results) -> Table:
    """How often contexts give the same class: on test queries first, on points of the map last."""
    rows = mapped(results)
    others = [row for row in rows if row.context in COMPARED_WITH]
    header = ["context", "rows", "accuracy", *(f"same class as {words(other.context)}, test" for other in others)]
    header += ["as on the map", *(f"same class as {words(other.context)}, map" for other in others)]
    body = []
    for row in rows:
        on_test = [
            "" if other is row else percent_interval(mean_accuracy(same_class(results, row, other))) for other in others
        ]
        on_map = [
            "" if other is row else percent((array(results, "class", row) == array(results, "class", other)).mean())
            for other in others
        ]
        accuracy = percent_interval(mean_accuracy(results.correct([row])))
        here = percent(row.measures["same_at_projection"])
        body.append([words(row.context), str(row.n_context), accuracy, *on_test, here, *on_map])
    points = array(results, "class", rows[0]).shape
    title = (
        f"% of {rows[0].n_query} test queries, with {probe_title(rows[0].probe, rows[0].preprocessing)}, 95 % "
        "intervals. As on the map: queries given the class that the map has at their projection. Map: % of "
        f"{points[1]} x {points[0]} points of a slice, on which no image lies"
    )
    return Table(title, header, body)


def finding(results: Results) -> str:
    """How often the synthetic rows decide on test as all training rows do, beside the strongest rival."""
    rows = {row.context: row for row in mapped(results)}
    if not {"synthetic", "all"} <= set(rows):
        return ""
    same = {name: same_class(results, row, rows["all"]) for name, row in rows.items() if name != "all"}
    own = same.pop("synthetic")
    text = (
        f"TabICL with the {rows['synthetic'].n_context} synthetic rows gives "
        f"{percent_interval(mean_accuracy(own))} % of the test images the class that it gives with all "
        f"{rows['all'].n_context} training rows"
    )
    if same:
        found = {name: paired_difference(own, other) for name, other in same.items()}
        p_values = dict(zip(found, holm([each.p_value for each in found.values()]), strict=True))
        rival = min(found, key=lambda name: found[name].difference.estimate)
        text += f": {against(words(rival), found[rival].difference, p_values[rival] < 0.05)}"
    return f"{text}."


def class_colors(number: int) -> np.ndarray:
    """One colour for each class, (number, 3), in [0, 1]; beyond 20 classes neighbours look alike."""
    if number <= 20:
        palette = matplotlib.colormaps["tab10" if number <= 10 else "tab20"]
        return np.array(palette.colors[:number])  # type: ignore[attr-defined]
    return np.asarray(matplotlib.colormaps["turbo"](np.linspace(0, 1, number))[:, :3])


def draw_map(axes: Axes, results: Results, row: Row, colors: np.ndarray) -> None:
    """Draw one context's map: the more certain a prediction, the stronger its class's colour."""
    x, y = results.arrays["boundary/x"], results.arrays["boundary/y"]
    predicted, confidence = (array(results, name, row) for name in ("class", "confidence"))
    chance = 1 / len(colors)
    strength = 0.1 + 0.6 * ((confidence - chance) / (1 - chance)).clip(0, 1)[..., None]
    right, up = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    extent = (x[0] - right, x[-1] + right, y[0] - up, y[-1] + up)
    axes.imshow(1 - strength * (1 - colors[predicted]), origin="lower", extent=extent, aspect="auto")
    points, labels = results.arrays["boundary/test"], results.labels["test"]
    shown = slice(None, None, -(-len(labels) // MAX_DOTS))
    across, along = points[shown].T
    axes.scatter(across, along, s=5, c=0.7 * colors[labels[shown]], alpha=0.6, lw=0)
    if row.n_context <= MAX_MARKS:
        names = class_names(results)
        short = max(map(len, names)) <= 2
        for point, label in zip(array(results, "rows", row), array(results, "labels", row), strict=True):
            box = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": colors[label], "lw": 1.8}
            text = names[label] if short else str(label)
            axes.annotate(text, point, fontsize=7.5, ha="center", va="center", bbox=box, annotation_clip=True)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    accuracy = percent(results.correct([row]).mean())
    axes.set_title(f"{words(row.context)}\n{row.n_context} rows: {accuracy} % right", fontsize=8.5, loc="left")
    axes.tick_params(labelsize=8)


def maps(results: Results) -> Figure:
    """All maps side by side, on the same axes."""
    rows, names = mapped(results), class_names(results)
    colors = class_colors(len(names))
    down = -(-len(rows) // ACROSS)
    figure, only = new_figure(NARROW, 2.5 * down + 1.5 + 0.1 * min(len(names), 20))
    only.remove()
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True)
    cells = np.atleast_2d(panels).ravel()
    for axes, row in zip(cells, rows, strict=False):
        draw_map(axes, results, row, colors)
    share = 100 * results.arrays["boundary/variance"]
    for position, axes in enumerate(cells):
        if position >= len(rows):
            axes.set_axis_off()
        elif position + ACROSS >= len(rows):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(f"1st principal component\n({share[0]:.0f} % of variance)", fontsize=9)
    short = max(map(len, names)) <= 2
    handles = [
        Line2D([], [], color=color, lw=0, marker="s", ms=8, label=name if short else f"{index} {cut(name)}")
        for index, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    handles.append(Line2D([], [], color="0.3", lw=0, marker="o", ms=3, label="test embedding (projected)"))
    mark = Line2D([], [], color="0.3", lw=0, marker="o", ms=9, mfc="white", mew=1.8, label="context row (projected)")
    figure.legend(
        handles=[*handles[-1:], mark, *handles[:-1]] if len(names) <= 20 else [handles[-1], mark],
        loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, title="colour: class, strong where certain",
    )  # fmt: skip
    figure.supylabel(f"2nd principal component of the training embeddings ({share[1]:.0f} % of variance)", fontsize=9)
    here = percent(float(np.mean([row.measures["same_at_projection"] for row in rows])))
    tabicl = probe_title(rows[0].probe, rows[0].preprocessing)
    text = (
        f"{tabicl} on a slice through the mean of the training embeddings. A slice is not a projection: dots (of "
        f"{rows[0].n_query} test embeddings) and circles lie off it, and {here} % of the test "
        "queries (mean of the maps) are given the class that the map has where their dot is."
    )
    figure.suptitle("\n".join(textwrap.wrap(text, 72)), fontsize=9)
    right = ", ".join(f"{words(row.context)} {percent(results.correct([row]).mean())} %" for row in rows)
    figure.set_label(
        f"{len(rows)} maps of the class that TabICL gives to points of a plane, each with another context. Right on "
        f"test: {right}."
    )
    return figure


def attended(results: Results) -> list[Row]:
    """The rows whose attention was read."""
    return [row for row in mapped(results) if f"boundary/attention/{row.key}" in results.arrays]


def attention(results: Results) -> Figure:
    """A heat map for each context, mean over blocks, and by block the share of attention to rows of the own class."""
    rows, names = attended(results), class_names(results)
    weights = [array(results, "attention", row) for row in rows]
    figure, only = new_figure(NARROW, 3.4 * (len(rows) + 1) + 0.7)
    only.remove()
    *panels, last = figure.subplots(len(rows) + 1, 1)
    most = 100 * max(weight.mean(0).max() for weight in weights)
    for axes, row, weight in zip(panels, rows, weights, strict=True):
        labels = array(results, "labels", row)
        order = labels.argsort(kind="stable")
        image = axes.imshow(100 * weight.mean(0)[:, order], cmap="Blues", vmin=0, vmax=most, aspect="auto")
        draw_ticks(axes, labels[order], names)
        if weight[0].size <= 150:
            for (c, i), value in np.ndenumerate(100 * weight.mean(0)[:, order]):
                color = "white" if value > 0.6 * most else "black"
                axes.text(i, c, f"{value:.0f}", ha="center", va="center", fontsize=7.5, color=color)
        axes.set_title(f"{words(row.context)}, {row.n_context} rows", fontsize=10, loc="left")
        axes.set_xlabel("context rows, by class")
        axes.set_ylabel("test queries, by class")
    figure.colorbar(image, ax=panels, label="mean attention, %", shrink=0.9, pad=0.02)
    shares = []
    for row, weight in zip(rows, weights, strict=True):
        labels = array(results, "labels", row)
        own = [(block * (labels[None] == np.arange(len(names))[:, None])).sum(1).mean() for block in weight]
        color = COLORS["synthetic" if row.context == "synthetic" else "real"]
        last.plot(range(1, len(own) + 1), 100 * np.array(own), "o-", color=color, label=words(row.context))
        shares.append(f"{words(row.context)} {100 * np.mean(own):.0f} %")
    last.axhline(100 / len(names), color="0.5", lw=1, ls="--", label="spread evenly")
    last.set(xlabel="block of the in-context stage", ylabel="mean attention, %", ylim=(0, None))
    last.set_xticks(range(1, len(weights[0]) + 1))
    last.set_title("to rows of the query's own class", fontsize=10, loc="left")
    last.spines[["top", "right"]].set_visible(False)
    last.grid(alpha=0.3)
    last.legend(frameon=False, fontsize=9)
    tabicl = probe_title(rows[0].probe, rows[0].preprocessing)
    text = (
        f"Where {tabicl} looks: attention of {rows[0].n_query} test queries to context rows in its in-context stage, "
        f"mean over heads and {rows[0].run['n_estimators']} members; heat maps: mean over blocks"
    )
    figure.suptitle("\n".join(textwrap.wrap(text, 72, break_on_hyphens=False)), fontsize=9)
    figure.set_label(
        "Heat maps of the attention that test queries of each class pay to context rows, and a line by block. To rows "
        f"of the own class, mean over blocks: {', '.join(shares)}; spread evenly: {100 / len(names):.0f} %."
    )
    return figure


def draw_ticks(axes: Axes, labels: np.ndarray, names: list[str]) -> None:
    """Name classes along both axes; ``labels`` (n,) are those of the columns, sorted."""
    short = [cut(name) for name in names]
    step = -(-len(names) // 20)
    classes = np.arange(0, len(names), step)
    middles = [np.flatnonzero(labels == label).mean() for label in classes if label in labels]
    axes.set_yticks(classes, [short[label] for label in classes], fontsize=8)
    axes.set_xticks(middles, [short[label] for label in classes if label in labels], fontsize=8)
    if max(map(len, short)) > 2:
        axes.tick_params(axis="x", rotation=90)


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    return [agreement_table(results)] if mapped(results) else []


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    found = {"maps": maps(results)} if mapped(results) else {}
    return found | ({"attention": attention(results)} if attended(results) else {})
