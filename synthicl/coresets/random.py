"""``random``: ``ipc`` training images of each class, drawn without replacement."""

from __future__ import annotations

import torch

from synthicl.core.randomness import keyed_generator
from synthicl.coresets.coreset import Coreset, select
from synthicl.embeddings.labelled import LabelledEmbeddings


def random(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Draw a context; a class with fewer than ``ipc`` images gives all it has."""
    generator = keyed_generator(seed, "random context")
    chosen = []
    for label in train.y.unique():
        members = (train.y == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return select(train, torch.cat(chosen))


REGISTERED = {"random": random}
