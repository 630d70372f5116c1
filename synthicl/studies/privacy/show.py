"""What ``privacy`` found: how near images are to training images, and how well these are told from test images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from synthicl.backbones.models import mini
from synthicl.core.auroc import auroc, auroc_difference
from synthicl.core.statistics import Comparison, Interval, holm, mean_accuracy
from synthicl.core.words import words
from synthicl.report.style import COLORS, NARROW, new_figure
from synthicl.report.table import Table, percent_interval
from synthicl.studies.results import Results, Row, probe_title

ORDER = ("synthetic", "centroid", "unseen", "all")
NAMES = {"unseen": "nearest to class mean of val (not trained on)"}
SCORES = ("distance", "loss")  # to the nearest context row of the image's class; TabICL's
SPACES = ("embeddings", "pixels")


class Nearness(NamedTuple):
    """How near some images are to training images.

    Attributes:
        relative: (n,), d1 in medians of that of test images.
        ratio: (n,), d1 / d2: the nearest-neighbour distance ratio.
        copies: how many have d1 = 0.
    """

    relative: np.ndarray
    ratio: np.ndarray
    copies: int


def label(row: Row) -> str:
    """How a context is called."""
    name = NAMES.get(row.context, words(row.context))
    return f"{name} (best on val)" if row.checkpoint == "best_on_val" else name


def pairs_of_rows(results: Results) -> list[tuple[Row, Row]]:
    """Each context's rows on training and on test images, as far as both are there; synthetic ones first."""
    test = {(row.context, row.checkpoint): row for row in results.select(split="test")}
    found = [
        (row, test[row.context, row.checkpoint])
        for row in results.select(split="train")
        if (row.context, row.checkpoint) in test
    ]
    return sorted(found, key=lambda pair: (ORDER.index(pair[0].context), pair[0].checkpoint != "last"))


def array(results: Results, name: str, row: Row) -> np.ndarray | None:
    """What was kept with a row."""
    return results.arrays.get(f"privacy/{name}/{row.key}")


def nearness(results: Results, row: Row, space: str) -> Nearness | None:
    """How near what belongs to a row is to training images, in a space; None where that was not measured."""
    of_test = [array(results, f"near {space}", test) for _, test in pairs_of_rows(results) if test.context == "unseen"]
    found = array(results, f"near {space}", row)
    if found is None or not of_test or of_test[0] is None:
        return None
    usual = max(float(np.median(of_test[0][:, 0])), np.finfo(float).tiny)  # 0 where half of test is in train
    first, second = found.T
    ratio = np.divide(first, second, out=np.zeros_like(first), where=second > 0)  # a copy of two that are equal is one
    return Nearness(first / usual, ratio, int((first == 0).sum()))


def scores_of(results: Results, pair: tuple[Row, Row], score: str) -> tuple[np.ndarray, np.ndarray]:
    """What training and test images score with a context, higher for what looks trained on."""
    train, test = (results.arrays[f"privacy/{score}/{row.key}"] for row in pair)
    return -train, -test


def added(results: Results, pair: tuple[Row, Row]) -> dict[str, Comparison]:
    """AUROC with a context minus that with images that were not trained on, by score; empty before that is known."""
    unseen = [other for other in pairs_of_rows(results) if other[0].context == "unseen"]
    if not unseen:
        return {}
    return {
        score: auroc_difference(scores_of(results, pair, score), scores_of(results, unseen[0], score))
        for score in SCORES
    }


def three(interval: Interval, sign: str = "") -> str:
    """A number with three decimals and its interval."""
    estimate, low, high = (f"{value:{sign}.3f}" for value in interval)
    return f"{estimate} [{low}, {high}]"


def nearness_table(results: Results, space: str) -> Table:
    """How near each context's images are to training images in a space, beside test images."""
    shown = [(label(train), train) for train, _ in pairs_of_rows(results)]
    shown += [("test images", test) for train, test in pairs_of_rows(results) if train.context == "unseen"]
    body = []
    for name, row in shown:
        found = nearness(results, row, space)
        if found is not None:
            numbers = [f"{number:.2f}" for each in found[:2] for number in (np.median(each), each.min())]
            body.append([name, str(len(found.ratio)), str(found.copies), *numbers])
    trained_on = next(iter(results.rows.values())).measures["training_images"]
    title = (
        f"The nearest of {trained_on:.0f} training images, by {space}: its distance, in medians of that of test images,"
        " and over that of the second nearest (NNDR); a copy has 0 in both"
    )
    header = ["images", "number", "copies", "distance, median", "smallest", "NNDR, median", "smallest"]
    return Table(title, header, body)


def membership_table(results: Results) -> Table:
    """How well training images are told from test images with each context."""
    body = []
    for pair in pairs_of_rows(results):
        more = {} if pair[0].context == "unseen" else added(results, pair)
        cells = []
        for score in SCORES:
            cells.append(three(auroc(*scores_of(results, pair, score))))
            cells.append(three(more[score].difference, "+") if more else "")
        cells += [percent_interval(mean_accuracy(results.correct([row]))) for row in pair]
        body.append([label(pair[0]), str(pair[0].n_context), *cells])
    train, test = pairs_of_rows(results)[0]
    carried = f"{train.measures['preprocessing_numbers']:,.0f} numbers of the preprocessing"
    title = (
        f"{train.n_query} training images told from {test.n_query} test images: AUROC (0.5: not at all), and how much "
        f"it is above that of val; accuracy of {probe_title(train.probe, train.preprocessing)} in %; 95 % intervals. "
        f"All rows share the backbone and {carried}, fitted on all training embeddings"
    )
    header = ["context", "rows", "by distance", "above val", "by TabICL's loss", "above val"]
    return Table(title, [*header, "accuracy, training", "accuracy, test"], body)


def sentence(results: Results, checkpoint: str = "last") -> str:
    """What was found about the synthetic images of a checkpoint; empty where that was not measured."""
    pair = next((pair for pair in pairs_of_rows(results) if pair[0].checkpoint == checkpoint), None)
    near = pair and nearness(results, pair[0], "embeddings")
    if pair is None or near is None:
        return ""
    train, test = pair
    copies = (nearness(results, train, "pixels") or near).copies
    more = added(results, pair)
    told = [p < 0.05 for p in holm([comparison.p_value for comparison in more.values()])]
    by = [three(auroc(*scores_of(results, pair, score))) for score in SCORES]
    above = [three(comparison.difference, "+") for comparison in more.values()]
    which = [name for name, is_told in zip(SCORES, told, strict=True) if is_told]
    verdict = (
        f"{' and '.join(which)} told from 0" if which else "neither told from 0, which does not prove that it is 0"
    )
    saw = train.run.get("dataset") == "digits" and train.backbone in mini.REGISTERED
    trained = (
        " The backbone, which all share, was itself trained on these training digits, without labels." if saw else ""
    )
    equal = f"{copies or 'None'} of the {train.n_context} synthetic images equal{'' if copies > 1 else 's'}"
    return (
        f"{equal} a training image. The nearest lies {near.relative.min():.2f} times as far from the "
        f"{train.measures['training_images']:.0f} training embeddings as test images do (median), with a distance "
        f"ratio (NNDR) of at least {near.ratio.min():.2f}; a copy has 0 in both. With their rows {train.n_query} "
        f"training images are told from {test.n_query} test images at an AUROC of {by[0]} by distance and {by[1]} by "
        f"TabICL's loss, where 0.5 is not at all. That is {above[0]} and {above[1]} more than with real images of val, "
        f"which were not trained on ({verdict}).{trained}"
    )


def finding(results: Results) -> str:
    """What was found about the last state of the schedule, or about the only one there is."""
    return sentence(results) or sentence(results, "best_on_val")


def tables(results: Results) -> list[Table]:
    """All tables of the study."""
    spaces = [nearness_table(results, space) for space in SPACES]
    membership = [membership_table(results)] if pairs_of_rows(results) else []
    return [*(table for table in spaces if table.body), *membership]


def nearest_figure(images: np.ndarray) -> Figure:
    """Synthetic images (k, 3, 3, S, S) in a column, beside them the nearest training images."""
    count = len(images)
    figure, only = new_figure(NARROW, 0.9 * count + 0.6)
    only.remove()
    panels = figure.subplots(count, 3, squeeze=False)
    names = ("synthetic", "nearest training\nimage by embedding", "nearest training\nimage by pixels")
    for column, name in enumerate(names):
        for row in range(count):
            axes = panels[row, column]
            axes.imshow(images[row, column].transpose(1, 2, 0), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        panels[0, column].set_title(name, fontsize=8.5)
    figure.set_label(
        f"{count} synthetic images, those nearest to a training image first; beside each its nearest training image by "
        "embedding, and by pixels. What is to be seen is whether any is a copy."
    )
    return figure


def distances_figure(results: Results) -> Figure:
    """Distances to the nearest training image: of test images as a histogram, of contexts as points."""
    shown = [(train, test) for train, test in pairs_of_rows(results) if train.context != "all"]
    spaces = [space for space in SPACES if nearness(results, shown[0][0], space)]
    figure, only = new_figure(NARROW, 3.0 * len(spaces) + 0.6)
    only.remove()
    colors = {"synthetic": COLORS["synthetic"], "centroid": COLORS["real"], "unseen": COLORS["other"]}
    for space, axes in zip(spaces, figure.subplots(len(spaces), 1, squeeze=False)[:, 0], strict=True):
        test = next(test for _, test in shown if test.context == "unseen")
        of_test = nearness(results, test, space)
        assert of_test is not None
        counts, _, _ = axes.hist(of_test.relative, 30, color=COLORS["reference"], label="test images")
        step = 0.09 * counts.max()
        for place, (train, _) in enumerate(shown):
            near = nearness(results, train, space)
            if near is not None:
                at = np.full(len(near.relative), -(place + 1) * step)
                last = train.checkpoint != "best_on_val"
                axes.plot(
                    near.relative, at, "o", ms=5, color=colors[train.context], mfc=None if last else "white",
                    alpha=0.8, label=label(train), clip_on=False,
                )  # fmt: skip
        axes.axvline(0, color="black", lw=1, ls=":")
        axes.set_ylim(bottom=-(len(shown) + 1) * step)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= counts.max()])
        axes.set_ylabel(f"of {len(of_test.ratio)} test images")
        axes.set_xlabel(f"distance to the nearest training image, {space},\nin medians of test images; 0: a copy")
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=1, frameon=False, fontsize=8.5)
    figure.set_label(
        "Histograms of the distance between test images and their nearest training image, with the images of each "
        "context as points below. What is to be seen is whether a synthetic image lies near 0, where copies lie."
    )
    return figure


def figures(results: Results) -> dict[str, Figure]:
    """All figures of the study."""
    found = {}
    for train, _ in pairs_of_rows(results):
        shown = array(results, "pairs", train)
        if shown is not None:
            found["nearest"] = nearest_figure(shown)
    if any(nearness(results, train, "embeddings") for train, _ in pairs_of_rows(results)):
        found["distances"] = distances_figure(results)
    return found
