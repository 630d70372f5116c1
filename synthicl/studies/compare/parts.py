"""Accuracy by class and by group, computed from stored predictions: nothing is classified again.

The mean over classes of the share that is right, of equal weight whatever their size, is also called balanced accuracy
(K. H. Brodersen et al., "The Balanced Accuracy and Its Posterior Distribution", ICPR 2010). The accuracy of the worst
group is what S. Sagawa et al. report, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
https://arxiv.org/abs/1911.08731. Groups come from a column of the labels (`synthicl.data.metadata`); they tell results
apart, and nothing else looks at them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule
from synthicl.studies.results import Results, Row

CLASSES, GROUPS = "compare/names of classes", "compare/names of groups"  # JSON, as uint8
TRAIN = "compare/training images of a class"  # (C,), int64
GROUP_OF = "compare/group of a query/"  # and the split: (q,), int64
MEASURES = ("mean_over_classes", "worst_class", "mean_over_groups", "worst_group")  # of a row, see `measure_parts`
MIN_QUERIES = 10  # of a class or group, below which it is marked, and is not called the worst


class Parts(NamedTuple):
    """What the queries of a split fall into.

    Attributes:
        kind: ``class`` or ``group``.
        plural: of it.
        names: of the P parts.
        of: the part of each query, (q,).
    """

    kind: str
    plural: str
    names: list[str]
    of: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Queries of each part, (P,)."""
        counts: np.ndarray = np.bincount(self.of, minlength=len(self.names))
        return counts

    def accuracies(self, correct: np.ndarray) -> np.ndarray:
        """Accuracy of each part, (P,), of (draws, q), bool; NaN for one without queries."""
        right = np.bincount(self.of, weights=correct.mean(0), minlength=len(self.names))
        accuracies: np.ndarray = np.full(len(self.names), np.nan)
        np.divide(right, self.sizes, out=accuracies, where=self.sizes > 0)
        return accuracies

    def from_worst(self, correct: np.ndarray) -> list[int]:
        """Parts that have queries, the worst first, of equal ones the largest.

        Those of fewer than `MIN_QUERIES` come after the others.
        """
        accuracies, sizes = self.accuracies(correct), self.sizes
        order = sorted(
            np.flatnonzero(sizes), key=lambda part: (sizes[part] < MIN_QUERIES, accuracies[part], -sizes[part])
        )
        return [int(part) for part in order]


def note_parts(results: Results, data: ImageDataModule, splits: Sequence[str]) -> None:
    """Put into results what queries fall into: names of classes, and groups where the dataset has them."""
    for name in [name for name in results.arrays if name == GROUPS or name.startswith(GROUP_OF)]:
        del results.arrays[name]
    results.arrays[CLASSES] = as_array(data.class_names)
    results.arrays[TRAIN] = np.bincount(data.splits["train"].labels, minlength=data.num_classes)
    asked = {split: data.splits[split].groups for split in splits}
    groups = {split: found for split, found in asked.items() if found is not None}
    if names := sorted({str(name) for found in groups.values() for name in found}):
        results.arrays[GROUPS] = as_array(names)
        for split, found in groups.items():
            results.arrays[GROUP_OF + split] = np.array([names.index(name) for name in found], dtype=np.int64)


def parts_of(results: Results, split: str) -> list[Parts]:
    """Classes, and groups where a split has several; nothing for results from before they were noted.

    Raises:
        UserError: predictions.safetensors contradicts itself.
    """
    if CLASSES not in results.arrays or split not in results.labels:
        return []
    found = [Parts("class", "classes", as_names(results.arrays[CLASSES]), results.labels[split])]
    if GROUP_OF + split in results.arrays and GROUPS in results.arrays:
        found.append(Parts("group", "groups", as_names(results.arrays[GROUPS]), results.arrays[GROUP_OF + split]))
    for parts in found:
        same_length = len(parts.of) == len(results.labels[split])
        if not same_length or parts.of.min() < 0 or parts.of.max() >= len(parts.names):
            raise damaged(f"{parts.plural} of {split} are not those that it names")
    if results.arrays.get(TRAIN, np.zeros(0)).shape != (len(found[0].names),):
        raise damaged("it does not say how many training images its classes have")
    return [parts for parts in found if len(np.unique(parts.of)) > 1]


def measure_parts(results: Results, splits: Sequence[str]) -> None:
    """Put accuracies by part into the measures of the rows of ``compare``, whose groups may be others than before.

    ``mean_over_classes`` is the mean of the accuracies of classes, ``worst_class`` that of the one that
    `Parts.from_worst` puts first, both in [0, 1]; ``mean_over_groups`` and ``worst_group`` likewise, where there are
    groups.
    """
    for split in splits:
        found = parts_of(results, split)
        for row in results.select(command="compare", split=split):
            measures = {name: value for name, value in row.measures.items() if name not in MEASURES}
            correct = results.correct([row])
            for parts in found:
                accuracies = parts.accuracies(correct)
                measures[f"mean_over_{parts.plural}"] = float(np.nanmean(accuracies))
                measures[f"worst_{parts.kind}"] = float(accuracies[parts.from_worst(correct)[0]])
            results.rows[row.key] = replace(row, measures=measures)


def confusion(results: Results, rows: Sequence[Row], classes: int) -> np.ndarray:
    """Queries by their class and by the predicted one, (C, C), means over rows of one split."""
    truth = results.labels[rows[0].split]
    counts = np.zeros((classes, classes))
    for row in rows:
        np.add.at(counts, (truth, results.predictions[row.key]), 1 / len(rows))
    return counts


def as_array(names: Sequence[str]) -> np.ndarray:
    """Names as numbers that safetensors holds."""
    return np.frombuffer(json.dumps(list(names)).encode(), dtype=np.uint8)


def as_names(array: np.ndarray) -> list[str]:
    """What `as_array` was given.

    Raises:
        UserError: it is something else.
    """
    try:
        names = json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise damaged("names of classes or groups are not JSON") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise damaged("names of classes or groups are no list of texts")
    return names


def damaged(what: str) -> UserError:
    """The line about stored predictions that are not as they were written."""
    return UserError(f"predictions.safetensors: damaged ({what}). Delete it and results.json, and evaluate again.")
