"""``facility_location``: images chosen one by one so that every image of the class has a similar one among them.

Greedy maximisation of

    f(S) = sum_i max_{j in S} sim(i, j),    sim(i, j) = max_{k, l} d(k, l) - d(i, j) >= 0,    f({}) = 0,

over the class's rows with Euclidean distance d. f is monotone and submodular, so the greedy choice has at least
1 - 1/e of the greatest value (G. Nemhauser, L. Wolsey and M. Fisher, Mathematical Programming 14, 1978). The problem:
P. Mirchandani and R. Francis, Discrete Location Theory, 1990.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.coresets.coreset import Coreset, best_next, select_by_class
from synthicl.embeddings.labelled import LabelledEmbeddings


def facility_location(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select ``ipc`` rows per class, or all it has; ties go to the first row; ``seed`` plays no part.

    Memory is that of two m x m matrices in float64 for a class of m rows.
    """
    return select_by_class(train, lambda rows: _cover(rows, ipc))


def _cover(rows: Tensor, count: int) -> Tensor:
    """Positions of at most ``count`` of the rows (m, D), in the order they are chosen."""
    # From differences, not from squared norms, which leave equal rows some distance apart.
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    similarity = distance.max() - distance
    covered = torch.zeros(len(rows), dtype=rows.dtype)  # similarity of each row to the most similar chosen one
    chosen: list[int] = []
    while len(chosen) < min(count, len(rows)):
        gain = (similarity - covered).clamp(min=0).sum(1)
        chosen.append(best_next(gain, chosen))
        covered = covered.maximum(similarity[chosen[-1]])
    return torch.tensor(chosen)


REGISTERED = {"facility_location": facility_location}
