"""Choosing TabICL's preprocessing on val, for all contexts alike.

Only real contexts are looked at, drawn at random: no synthetic image, no builder and no objective is favoured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from synthicl.core.errors import UserError
from synthicl.coresets.random import random
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.score import fit_and_score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, columns_of, fit_preprocessing, most_columns

CANDIDATES = ("rotated16", "pca16", "rotated32", "rotated64")  # few columns first: TabICL's cost grows with them
DRAWS = 6  # contexts of ``ipc`` rows per class; half as many of ten times the rows, one of the most
MAX_ROWS = 1000  # TabICL's cost grows with the square of the rows


def fit_or_choose(
    name: str,
    candidates: Sequence[str],
    train: LabelledEmbeddings,
    val: LabelledEmbeddings,
    ipc: int,
    model_path: Path,
    n_estimators: int | None = None,
    device: torch.device | str = "cpu",
) -> Preprocessing:
    """Fit a preprocessing by its name; for ``auto`` choose, and print what was chosen from.

    Arguments are those of `choose_preprocessing`.
    """
    if name != "auto":
        return fit_preprocessing(name, train.z, n_estimators)
    preprocessing, accuracy = choose_preprocessing(candidates, train, val, ipc, model_path, n_estimators, device)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    chosen = f"{preprocessing.name}, chosen on val with random real contexts ({scores})."
    print(f"TabICL preprocessing: {chosen}", flush=True)
    return preprocessing


def choose_preprocessing(
    candidates: Sequence[str],
    train: LabelledEmbeddings,
    val: LabelledEmbeddings,
    ipc: int,
    model_path: Path,
    n_estimators: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Preprocessing, dict[str, float]]:
    """Fit every candidate, score it on val, and choose by `first_of_the_best`.

    Args:
        candidates: names of preprocessings, those preferred first.
        train: clean embeddings.
        val: likewise.
        ipc: rows per class; contexts of ``ipc``, of ten times as many, and of up to `MAX_ROWS` rows count the same.
        model_path: TabICL checkpoint.
        n_estimators: ensemble members, None for the preprocessing's own.
        device: where TabICL runs.

    Returns:
        The preprocessing, and the mean accuracy of each candidate.

    Raises:
        UserError: there are too few training images for any candidate; those for which there are too few are left out.
    """
    possible = [name for name in candidates if columns_of(name) <= most_columns(train.z)]
    if not possible:
        raise UserError(
            f"--tabicl.preprocessing=auto: {len(train.y)} training images are too few for any of {tuple(candidates)}. "
            "Choose raw."
        )
    preprocessings = {name: fit_preprocessing(name, train.z, n_estimators) for name in possible}
    probes = {
        name: TabICLProbe(Deployment(preprocessing, model_path.name, model_path), device)
        for name, preprocessing in preprocessings.items()
    }
    most = max(MAX_ROWS // len(train.y.unique()), 1)
    sizes = ((ipc, DRAWS), (10 * ipc, DRAWS // 2), (most, 1))
    contexts = [
        (name, part, rows, draw)
        for name in preprocessings
        for part, (rows, draws) in enumerate(sizes)
        for draw in range(draws)
    ]
    accuracies: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in preprocessings}
    for name, part, rows, draw in track(contexts, "Choosing TabICL's preprocessing on val", transient=True):
        context = random(train, rows, draw).rows
        accuracies[name][part].append(fit_and_score(probes[name], context, val)[1]["accuracy"])
    chosen = first_of_the_best(accuracies)
    return preprocessings[chosen], {name: _mean(parts) for name, parts in accuracies.items()}


def first_of_the_best(accuracies: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Choose by the one-standard-error rule: the first of all that are as good as the best.

    What lies within the error of the best cannot be told from it: there the order of the candidates decides, as the
    size of a tree does in L. Breiman et al., Classification and Regression Trees, 1984, section 3.4.3.

    Args:
        accuracies: by preprocessing, those preferred first, one sequence of accuracies over draws for each number of
            context rows; numbers of rows count the same.

    Returns:
        Name of the preprocessing.
    """
    means = {name: _mean(parts) for name, parts in accuracies.items()}
    best = max(means, key=lambda name: means[name])
    variances = [float(np.var(part, ddof=1)) / len(part) if len(part) > 1 else 0.0 for part in accuracies[best]]
    error = sum(variances) ** 0.5 / len(variances)
    return next(name for name, mean in means.items() if mean >= means[best] - error)


def _mean(parts: Sequence[Sequence[float]]) -> float:
    """Mean over numbers of context rows of the mean over draws."""
    return float(np.mean([np.mean(part) for part in parts]))
