"""``hard_pairs``: the images nearest to one of another class, on which rules that agree elsewhere differ."""

from __future__ import annotations

import torch

from synthicl.coresets.coreset import Coreset, best_next, select
from synthicl.embeddings.labelled import LabelledEmbeddings


def hard_pairs(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select ``ipc`` rows per class, or all it has; ties go to the first row; ``seed`` plays no part."""
    z = train.z.double()
    chosen = []
    for label in train.y.unique():
        members, others = ((train.y == label) == own for own in (True, False))
        gap = -torch.cdist(z[members], z[others], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        nearest: list[int] = []
        for _ in range(min(ipc, len(gap))):
            nearest.append(best_next(gap, nearest))
        chosen.append(members.nonzero().flatten()[nearest])
    return select(train, torch.cat(chosen))


OPTIONAL = {"hard_pairs": hard_pairs}
