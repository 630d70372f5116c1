"""``centroid``: the ``ipc`` real images of each class that lie nearest to the class's mean embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.coresets.coreset import Coreset, select


def centroid(z: Tensor, y: Tensor, ipc: int, seed: int) -> Coreset:
    """Select by Euclidean distance to the class mean; deterministic, ``seed`` plays no part."""
    chosen = []
    for label in y.unique():
        members = (y == label).nonzero().flatten()
        distance = (z[members] - z[members].mean(0)).norm(dim=1)
        chosen.append(members[distance.argsort(stable=True)[:ipc]])
    return select(z, y, torch.cat(chosen))


REGISTERED = {"centroid": centroid}
