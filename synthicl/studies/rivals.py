"""Contexts that need more than the training embeddings: synthetic images to be near to, or TabICL in the loop.

What a study calls by name beside the builders of `synthicl.coresets`; val and test reach none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from synthicl.core.randomness import keyed_generator
from synthicl.coresets.coreset import Coreset
from synthicl.coresets.nearest_neighbours import nearest_neighbours
from synthicl.coresets.prototypes import starts
from synthicl.coresets.swap_search import swap_search
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.in_context import InContext
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.subject import Subject

EVALUATIONS = 400  # of one member of TabICL, fixed in advance
STEPS, LEARNING_RATE = 600, 0.02  # of Adam on free rows, as many as the digits' distillation has; fixed in advance


def neighbours(subject: Subject, ipc: int, seed: int) -> Coreset:
    """The real images nearest to the synthetic ones; ``ipc`` and ``seed`` play no part."""
    return nearest_neighbours(subject.embedded("train"), subject.context_sets["last"].rows)


def swap_tabicl(subject: Subject, ipc: int, seed: int) -> Coreset:
    """Swap search under the cross-entropy of one member of TabICL on all training images, asked `EVALUATIONS` times."""
    train, deployment = subject.embedded("train"), subject.deployment
    probe = TabICLProbe(
        replace(deployment, preprocessing=replace(deployment.preprocessing, n_estimators=1)), subject.device
    )

    def loss(rows: LabelledEmbeddings) -> float:
        probe.fit(rows)
        return score(probe, train, np.unique(rows.y.numpy()))[1]["cross_entropy"]

    return swap_search(train, ipc, seed, loss, EVALUATIONS)


def free_rows(subject: Subject, ipc: int, seed: int) -> Coreset:
    """Rows that the in-context objective optimises themselves, in place of images that the backbone makes rows of."""
    train = subject.embedded("train")
    objective = InContext()
    objective.prepare(train, subject.deployment, torch.device(subject.device))
    return Coreset(optimise_rows(objective, train, train, ipc, seed, subject.device), None)


def optimise_rows(
    objective: InContext,
    train: LabelledEmbeddings,
    real: LabelledEmbeddings,
    ipc: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> LabelledEmbeddings:
    """``ipc`` rows per class, from the means of ``train`` on: `STEPS` steps move them so that they classify ``real``.

    Args:
        objective: prepared on the device.
        train: (N, D), the unit of a move is its columns' mean standard deviation.
        real: (M, D), what queries are drawn from: the same, or views of it.
        ipc: rows per class.
        seed: of where several rows of a class start, and of what is drawn in a step.
        device: where TabICL runs.
    """
    begun, unit = starts(train, ipc, seed), train.z.std(0).mean()
    asked = real._replace(z=real.z.to(device), y=real.y.to(device))
    move = torch.zeros_like(begun.z, device=device, requires_grad=True)
    y = begun.y.to(device)
    optimiser = torch.optim.Adam([move], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        rows = LabelledEmbeddings(begun.z.to(device) + unit.to(device) * move, y)
        optimiser.zero_grad()
        loss = objective(rows, asked, int(train.y.max()) + 1, keyed_generator(seed, "free rows", step))
        loss.backward()
        optimiser.step()
        schedule.step()
    return LabelledEmbeddings(begun.z + unit * move.detach().cpu(), begun.y)


Rival = Callable[[Subject, int, int], Coreset]

RIVALS: dict[str, Rival] = {"neighbours": neighbours, "swap_tabicl": swap_tabicl, "free_rows": free_rows}
