"""``centroid``: the ``ipc`` real images of each class that lie nearest to the class's mean embedding."""

from __future__ import annotations

import torch

from synthicl.coresets.coreset import Coreset, select
from synthicl.embeddings.labelled import LabelledEmbeddings


def centroid(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select by Euclidean distance to the class mean; deterministic, ``seed`` plays no part."""
    chosen = []
    for label in train.y.unique():
        members = (train.y == label).nonzero().flatten()
        distance = (train.z[members] - train.z[members].mean(0)).norm(dim=1)
        chosen.append(members[distance.argsort(stable=True)[:ipc]])
    return select(train, torch.cat(chosen))


REGISTERED = {"centroid": centroid}
