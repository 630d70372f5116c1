"""Choosing TabICL's protocol on val, for all contexts alike.

Only real contexts are looked at, drawn at random: no synthetic image, no builder and no objective is favoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from synthicl.evaluation.compare import score
from synthicl.in_context.protocol import Protocol, fit_protocol
from synthicl.probes.tabicl import TabICLProbe
from synthicl.selection.random import random

DRAWS = 6


def choose_protocol(
    candidates: Sequence[str],
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    ipc: int,
    model_path: Path,
    n_estimators: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Protocol, dict[str, float]]:
    """Fit every candidate and take the one with the best mean accuracy on val.

    Args:
        candidates: names of protocols; the first wins a tie.
        train: clean embeddings (N, D) and labels (N,).
        val: likewise.
        ipc: rows per class; contexts of ``ipc`` and of ten times as many rows per class count the same.
        model_path: TabICL checkpoint.
        n_estimators: ensemble members, None for the protocol's own.
        device: where TabICL runs.

    Returns:
        The protocol, and the mean accuracy of each candidate.
    """
    protocols = {name: fit_protocol(name, train[0], n_estimators) for name in candidates}
    accuracy = {}
    for name, protocol in protocols.items():
        probe = TabICLProbe(protocol, model_path, device)
        means = []
        for rows, draws in ((ipc, DRAWS), (10 * ipc, DRAWS // 3)):
            scores = []
            for draw in range(draws):
                context = random(*train, rows, draw)
                probe.fit(context.z, context.y)
                scores.append(score(probe, *val, context.y.unique().numpy())[1]["accuracy"])
            means.append(sum(scores) / draws)
        accuracy[name] = sum(means) / len(means)
    return protocols[max(accuracy, key=lambda name: accuracy[name])], accuracy
