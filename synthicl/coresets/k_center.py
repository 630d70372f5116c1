"""``k_center``: images chosen one by one, each as far as possible from those chosen before it.

The greedy algorithm for the k-center problem: the farthest that a row of the class lies from a chosen one is at most
twice what it is for the best choice of ``ipc`` rows (T. Gonzalez, "Clustering to minimize the maximum intercluster
distance", Theoretical Computer Science 38, 1985). It begins with the image nearest to the class mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.coresets.coreset import Coreset, best_next, select_by_class
from synthicl.embeddings.labelled import LabelledEmbeddings


def k_center(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select ``ipc`` rows per class, or all it has; ties go to the first row; ``seed`` plays no part."""
    return select_by_class(train, lambda rows: _spread(rows, ipc))


def _spread(rows: Tensor, count: int) -> Tensor:
    """Positions of at most ``count`` of the rows (m, D), in the order they are chosen."""
    chosen = [best_next(-(rows - rows.mean(0)).norm(dim=1), [])]
    nearest = torch.full((len(rows),), torch.inf, dtype=rows.dtype)  # distance to the nearest chosen row
    while len(chosen) < min(count, len(rows)):
        nearest = nearest.minimum((rows - rows[chosen[-1]]).norm(dim=1))
        chosen.append(best_next(nearest, chosen))
    return torch.tensor(chosen)


REGISTERED = {"k_center": k_center}
