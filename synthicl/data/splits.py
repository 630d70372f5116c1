"""Stratified splits that depend on nothing but the labels and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def stratified_split(
    labels: Sequence[int] | np.ndarray, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """Partition ``range(len(labels))`` class by class.

    Every class is shuffled by itself and cut in the order of ``fractions``, at least one image for each; the rest is
    ``train``. At least one image stays there: a class of one or two images is missing from later splits.

    Args:
        labels: class index of each image.
        fractions: share of each class that a split gets, for example ``{"val": 0.2, "test": 0.3}``.
        seed: seed of the permutations. NumPy keeps ``RandomState``'s stream fixed for ever (NEP 19).

    Returns:
        Sorted index arrays, disjoint and complete: one for each name in ``fractions``, and ``train``.
    """
    random = np.random.RandomState(seed)
    parts: dict[str, list[np.ndarray]] = {"train": [], **{name: [] for name in fractions}}
    label_array = np.asarray(labels)
    for label in np.unique(label_array):
        members = random.permutation(np.flatnonzero(label_array == label))
        start = 0
        for name, fraction in fractions.items():
            count = min(max(round(fraction * len(members)), 1), len(members) - 1 - start)
            parts[name].append(members[start : start + count])
            start += count
        parts["train"].append(members[start:])
    return {name: np.sort(np.concatenate(arrays)) for name, arrays in parts.items()}
