"""``herding``: images chosen one by one so that their running mean follows the class mean.

M. Welling, "Herding dynamical weights to learn", ICML 2009; in this greedy form, as exemplars of a class, S.-A. Rebuffi
et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, https://arxiv.org/abs/1611.07725,
algorithm 4. Unlike there, embeddings are not scaled to length 1, and no image comes twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.coresets.coreset import Coreset, best_next, select_by_class
from synthicl.embeddings.labelled import LabelledEmbeddings


def herding(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select ``ipc`` rows per class, or all it has; ties go to the first row; ``seed`` plays no part."""
    return select_by_class(train, lambda rows: _herd(rows, ipc))


def _herd(rows: Tensor, count: int) -> Tensor:
    """Positions of at most ``count`` of the rows (m, D), in the order they are chosen."""
    mean, total = rows.mean(0), torch.zeros_like(rows[0])
    chosen: list[int] = []
    for number in range(1, min(count, len(rows)) + 1):
        distance = (mean - (total + rows) / number).norm(dim=1)
        chosen.append(best_next(-distance, chosen))
        total = total + rows[chosen[-1]]
    return torch.tensor(chosen)


REGISTERED = {"herding": herding}
