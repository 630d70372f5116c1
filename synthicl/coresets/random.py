"""``random``: ``ipc`` training images of each class, drawn without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.core.randomness import keyed_generator
from synthicl.coresets.coreset import Coreset, select


def random(z: Tensor, y: Tensor, ipc: int, seed: int) -> Coreset:
    """Draw a context; a class with fewer than ``ipc`` images gives all it has."""
    generator = keyed_generator(seed, "random context")
    chosen = []
    for label in y.unique():
        members = (y == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return select(z, y, torch.cat(chosen))


REGISTERED = {"random": random}
