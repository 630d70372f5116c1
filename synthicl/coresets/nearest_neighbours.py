"""The real images nearest to given points: to synthetic images, or to the centres of clusters.

What is nearest to the synthetic images tells whether they are more than real images in disguise. It needs the synthetic
embeddings, so it is not among the builders that ``REGISTERED`` lists.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.coresets.coreset import Coreset, best_next, select
from synthicl.embeddings.labelled import LabelledEmbeddings


def nearest_neighbours(train: LabelledEmbeddings, synthetic: LabelledEmbeddings) -> Coreset:
    """Select for each synthetic row, in order, the training image of its class that is nearest and not taken yet.

    Args:
        train: clean training embeddings (N, D).
        synthetic: (n, D).

    Returns:
        Rows in the order of the synthetic ones. Synthetic rows for which their class has no image left are left out.
    """
    indices = torch.full((len(synthetic.y),), -1)
    for label in synthetic.y.unique():
        members = (train.y == label).nonzero().flatten()
        askers = (synthetic.y == label).nonzero().flatten()
        nearest = members[nearest_distinct(train.z[members].double(), synthetic.z[askers].double())]
        indices[askers[: len(nearest)]] = nearest
    return select(train, indices[indices >= 0])


def nearest_distinct(rows: Tensor, points: Tensor) -> Tensor:
    """For each point, in order, the row nearest to it by Euclidean distance that is not taken yet.

    Args:
        rows: (m, D), float64.
        points: (k, D), float64.

    Returns:
        Positions among the rows, (min(k, m),), all different; ties go to the first row.
    """
    distance = torch.cdist(points, rows, compute_mode="donot_use_mm_for_euclid_dist")
    chosen: list[int] = []
    for to_rows in distance[: len(rows)]:
        chosen.append(best_next(-to_rows, chosen))
    return torch.tensor(chosen, dtype=torch.long)
