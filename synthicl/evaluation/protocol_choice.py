"""Choosing TabICL's protocol on val, for all contexts alike.

Only real contexts are looked at, drawn at random: no synthetic image, no builder and no objective is favoured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from synthicl.evaluation.scoring import score
from synthicl.in_context.protocol import Protocol, columns_of, fit_protocol
from synthicl.probes.tabicl import TabICLProbe
from synthicl.selection.random import random

CANDIDATES = ("rotated16", "rotated32", "rotated64", "pca16")
DRAWS = 6  # contexts of ``ipc`` rows per class; half as many of ten times the rows, one of the most
MOST_ROWS = 1000  # TabICL's cost grows with the square of the rows


def choose_protocol(
    candidates: Sequence[str],
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    ipc: int,
    model_path: Path,
    n_estimators: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Protocol, dict[str, float]]:
    """Fit every candidate, score it on val, and choose by `fewest_columns_of_the_best`.

    Args:
        candidates: names of protocols.
        train: clean embeddings (N, D) and labels (N,).
        val: likewise.
        ipc: rows per class; contexts of ``ipc``, of ten times as many, and of up to `MOST_ROWS` rows count the same.
        model_path: TabICL checkpoint.
        n_estimators: ensemble members, None for the protocol's own.
        device: where TabICL runs.

    Returns:
        The protocol, and the mean accuracy of each candidate.
    """
    protocols = {name: fit_protocol(name, train[0], n_estimators) for name in candidates}
    probes = {name: TabICLProbe(protocol, model_path, device) for name, protocol in protocols.items()}
    most = max(MOST_ROWS // len(train[1].unique()), 1)
    sizes = ((ipc, DRAWS), (10 * ipc, DRAWS // 2), (most, 1))
    contexts = [
        (name, part, rows, draw)
        for name in protocols
        for part, (rows, draws) in enumerate(sizes)
        for draw in range(draws)
    ]
    accuracies: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in protocols}
    for name, part, rows, draw in track(contexts, "Choosing TabICL's protocol on val", transient=True):
        context = random(*train, rows, draw)
        probes[name].fit(context.z, context.y)
        accuracies[name][part].append(score(probes[name], *val, context.y.unique().numpy())[1]["accuracy"])
    chosen = fewest_columns_of_the_best(accuracies)
    return protocols[chosen], {name: _mean(parts) for name, parts in accuracies.items()}


def fewest_columns_of_the_best(accuracies: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Choose by the one-standard-error rule: of all that are as good as the best, the one with the fewest columns.

    TabICL's cost grows with the columns, and what lies within the error of the best cannot be told from it (L. Breiman
    et al., Classification and Regression Trees, 1984, section 3.4.3). Raw embeddings count as having the most columns.

    Args:
        accuracies: by protocol, one sequence of accuracies over draws for each number of context rows; numbers of rows
            count the same.

    Returns:
        Name of the protocol.
    """
    means = {name: _mean(parts) for name, parts in accuracies.items()}
    best = max(means, key=lambda name: means[name])
    variances = [float(np.var(part, ddof=1)) / len(part) if len(part) > 1 else 0.0 for part in accuracies[best]]
    error = sum(variances) ** 0.5 / len(variances)
    as_good = [name for name in accuracies if means[name] >= means[best] - error]
    return min(as_good, key=lambda name: (columns_of(name) or np.inf, -means[name]))


def _mean(parts: Sequence[Sequence[float]]) -> float:
    """Mean over numbers of context rows of the mean over draws."""
    return float(np.mean([np.mean(part) for part in parts]))
