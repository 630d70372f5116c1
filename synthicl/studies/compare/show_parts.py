"""Tables by class and by group, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from synthicl.core.statistics import mean_accuracy
from synthicl.core.text import printable
from synthicl.report.style import NARROW, new_figure
from synthicl.report.table import Name, Table, percent, percent_interval
from synthicl.studies.compare.lines import label, of_column
from synthicl.studies.compare.parts import MIN_QUERIES, TRAIN, Parts, confusion, parts_of
from synthicl.studies.results import Results, Row, probe_title

SHOWN = 10  # pairs of classes
WRITTEN = 12  # classes up to which the matrix has numbers in its cells, and their own order
MOST = 100  # classes up to which there is a matrix
ROW = 0.145  # inches of a class in the matrix


def tables(results: Results, split: str, most: int | None = None) -> list[Table]:
    """What a split falls into, and how accurate TabICL is there; nothing for results from before it was noted.

    Args:
        results: of ``compare``.
        split: whose queries are looked at.
        most: classes or groups that are listed, the worst of them; None for all.
    """
    found = parts_of(results, split)
    shown = []
    for parts in found:
        shown += [worst_table(results, split, parts), detail_table(results, split, parts, most)]
        if parts.kind == "class":
            shown += [*pairs_tables(results, split, parts), size_table(results, split, parts)]
    return shown


def figures(results: Results, split: str) -> dict[str, Figure]:
    """The confusion matrix of up to `MOST` classes."""
    for parts in parts_of(results, split):
        if parts.kind == "class" and len(parts.names) <= MOST:
            return {"confusion": confusion_matrix(results, split, parts)}
    return {}


def finding(results: Results, split: str) -> str:
    """The accuracy of the worst group as a sentence; empty without groups."""
    for parts in parts_of(results, split):
        if parts.kind == "group":
            _, rows = detailed(results, split)
            correct = results.correct(rows)
            worst = parts.from_worst(correct)[0]
            there = correct[:, parts.of == worst]
            groups = int((parts.sizes > 0).sum())
            right, images = percent_interval(mean_accuracy(there)), there.shape[1]
            return f" In the worst of {groups} groups it is right on {right} % ({images} images)."
    return ""


def detailed(results: Results, split: str) -> tuple[str, list[Row]]:
    """The line that is looked at in detail: the synthetic context, or that of most rows; its name and its rows."""
    found = of_column(results, split)
    synthetic = next((key for key in found if (key.context, key.checkpoint) == ("synthetic", "last")), None)
    key = synthetic or max(found, key=lambda key: found[key][0].n_context)
    return f"{label(key, found[key])}, {found[key][0].n_context} rows", found[key]


def size(parts: Parts, part: int) -> str:
    """Images of a part in a cell; marked where there are too few to say much."""
    images = int(parts.sizes[part])
    return f"{images} (few)" if images < MIN_QUERIES else str(images)


def worst_table(results: Results, split: str, parts: Parts) -> Table:
    """A line for each context: accuracy, its mean over parts, and the worst of them."""
    body = []
    found = of_column(results, split)
    for key, rows in found.items():
        correct = results.correct(rows)
        worst = parts.from_worst(correct)[0]
        there = percent_interval(mean_accuracy(correct[:, parts.of == worst]))
        cells = [percent(correct.mean()), percent(float(np.nanmean(parts.accuracies(correct))))]
        body.append(
            [label(key, rows), str(rows[0].n_context), *cells, Name(parts.names[worst]), there, size(parts, worst)]
        )
    first = next(iter(found.values()))[0]
    probe, several = probe_title(first.probe, first.preprocessing), int((parts.sizes > 0).sum())
    title = (
        f"{several} {parts.plural} of {split} with {probe}, means over draws; the worst of those with {MIN_QUERIES} "
        "images and more, its interval as if it had been named in advance"
    )
    header = ["context", "rows", "right, %", f"mean over {parts.plural}, %", f"worst {parts.kind}"]
    return Table(title, [*header, "right there, % [95 % interval]", "images"], body)


def detail_table(results: Results, split: str, parts: Parts, most: int | None = None) -> Table:
    """The parts of one context from the worst on, a line for each, ``most`` at most."""
    name, rows = detailed(results, split)
    correct = results.correct(rows)
    order = parts.from_worst(correct)
    is_class = parts.kind == "class"
    counts = confusion(results, rows, len(parts.names)) if is_class else np.zeros((0, 0))
    body = []
    for part in order[:most]:
        line = [Name(parts.names[part]), size(parts, part)]
        line.append(percent_interval(mean_accuracy(correct[:, parts.of == part])))
        if is_class:
            others = np.where(np.arange(len(parts.names)) == part, -1, counts[part])
            taken = int(others.argmax())
            line.append(str(results.arrays[TRAIN][part]))
            line.append(Name(parts.names[taken]) if others[taken] > 0 else "")
        body.append(line)
    header = [parts.kind, f"images of {split}", "right, % [95 % interval]"]
    some = most is not None and most < len(order)
    which = f"the {most} worst of {len(order)} {parts.plural}" if some else f"all {parts.plural}"
    title = f"{name}: {which}, the worst first; those of fewer than {MIN_QUERIES} images come last"
    return Table(title, [*header, *(["training images", "most often taken for"] if is_class else [])], body)


def pairs_tables(results: Results, split: str, parts: Parts) -> list[Table]:
    """The pairs of classes that are confused most, where there are too many classes to write numbers into a matrix."""
    name, rows = detailed(results, split)
    counts = confusion(results, rows, len(parts.names))
    if len(counts) <= WRITTEN:
        return []
    np.fill_diagonal(counts, 0)
    body = []
    for flat in np.argsort(-counts, axis=None, kind="stable")[:SHOWN]:
        truth, said = np.unravel_index(flat, counts.shape)
        if counts[truth, said] > 0:
            share = percent(counts[truth, said] / parts.sizes[truth])
            line = [Name(parts.names[truth]), Name(parts.names[said]), f"{counts[truth, said]:g}", share]
            body.append(line)
    title = f"{name}: the pairs of classes that are confused most, of {split}"
    return [Table(title, ["class", "taken for", "images", "of the class, %"], body)] if body else []


def size_table(results: Results, split: str, parts: Parts) -> Table:
    """How unequal the classes are, and what always naming the largest would reach."""
    body, sizes = [], {"train": results.arrays[TRAIN], split: parts.sizes}
    for which, counts in sizes.items():
        most, least = int(counts.argmax()), int(counts.argmin())
        cells = [Name(parts.names[most]), str(counts[most]), Name(parts.names[least]), str(counts[least])]
        ratio = f"{counts[most] / max(counts[least], 1):.1f}"
        body.append([which, str(counts.sum()), *cells, ratio, percent(counts[most] / counts.sum())])
    chance = percent(1 / len(parts.names))
    title = (
        f"Classes: the largest of {split} has {body[1][6]} times the images of the smallest (train: {body[0][6]}). "
        f"Who always names it is right on {body[1][7]} %, as a mean over classes on {chance} %"
    )
    header = ["split", "images", "largest class", "images", "smallest class", "images", "ratio", "share of largest, %"]
    return Table(title, header, body)


def by_likeness(counts: np.ndarray) -> np.ndarray:
    """An order of classes in which those that are confused stand together, from (C, C) counts.

    Average linkage of shares that are confused, in the order of leaves that brings neighbours closest (Z. Bar-Joseph et
    al., Bioinformatics 17, 2001).
    """
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    alike = (shares + shares.T) / 2
    np.fill_diagonal(alike, 1)
    leaves: np.ndarray = leaves_list(linkage(squareform(1 - alike, checks=False), "average", optimal_ordering=True))
    return leaves


def cut(name: str, length: int = 20) -> str:
    """A class name for where there is little room."""
    shown = printable(name)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def numbered(names: Sequence[str]) -> list[str]:
    """Names with their places, which the other axis has for them."""
    return [f"{cut(name)}  {place}" for place, name in enumerate(names, start=1)]


def confusion_matrix(results: Results, split: str, parts: Parts) -> Figure:
    """Share of each class's queries by the class that is predicted, of one context."""
    name, rows = detailed(results, split)
    counts = confusion(results, rows, len(parts.names))
    classes = len(counts)
    order = np.arange(classes) if classes <= WRITTEN else by_likeness(counts)
    shares = 100 * (counts / counts.sum(1, keepdims=True).clip(1))[np.ix_(order, order)]
    figure, axes = new_figure(NARROW, max(ROW * classes, 2.6) + 1.4)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), aspect="auto", interpolation="nearest")
    axes.set_yticks(range(classes), numbered([parts.names[label] for label in order]), fontsize=8.5, parse_math=False)
    places = np.arange(classes) if classes <= WRITTEN else np.arange(4, classes, 5)
    axes.set_xticks(places, [str(place + 1) for place in places], fontsize=8.5, rotation=90 if classes > 50 else 0)
    if classes <= WRITTEN:
        for truth, said in np.ndindex(shares.shape):
            if shares[truth, said] >= 0.5:
                color = "white" if shares[truth, said] > 30 else "black"
                axes.text(said, truth, f"{shares[truth, said]:.0f}", ha="center", va="center", fontsize=8, color=color)
    probe = probe_title(rows[0].probe, rows[0].preprocessing)
    axes.set_xlabel(f"predicted class, by the number beside its name\n{cut(name, 60)}\n{probe}", fontsize=9)
    sorted_by = "" if classes <= WRITTEN else "; classes that are confused stand together"
    title = f"Images of each class of {split} (a line) in %\nby predicted class{sorted_by}"
    axes.set_title(title, fontsize=8.5, loc="right" if classes > WRITTEN else "center")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, ticks=[0, 5, 25, 50, 100], pad=0.01)
    bar.set_label("% of the class's images", fontsize=8.5)
    bar.ax.tick_params(labelsize=8.5)
    figure.set_label(
        f"A matrix of {classes} classes and the classes they are given with {name}: on average over classes "
        f"{percent(float(np.diag(shares).mean()) / 100)} % lie on its diagonal."
    )
    return figure
