"""``kmeans_medoids``: the real images nearest to the centres of ``ipc`` clusters of each class, found by k-means.

k-means++ of D. Arthur and S. Vassilvitskii, SODA 2007, as scikit-learn has it.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from synthicl.core.randomness import derive_seed
from synthicl.coresets.coreset import Coreset, select_by_class
from synthicl.coresets.nearest_neighbours import nearest_distinct
from synthicl.embeddings.labelled import LabelledEmbeddings

RESTARTS = 10  # k-means keeps the best of them


def kmeans_medoids(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select ``ipc`` distinct rows per class, or all it has; ``seed`` decides where k-means starts."""
    random_state = derive_seed(seed, "k-means") % 2**32  # scikit-learn takes 32 bits
    return select_by_class(train, lambda rows: _medoids(rows, ipc, random_state))


def _medoids(rows: Tensor, count: int, random_state: int) -> Tensor:
    """Positions of at most ``count`` of the rows (m, D)."""
    if count >= len(rows):
        return torch.arange(len(rows))
    with warnings.catch_warnings():
        # Fewer different rows than clusters: some centres coincide, and the rows nearest to them are still distinct.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(count, n_init=RESTARTS, random_state=random_state).fit(rows.numpy())
    return nearest_distinct(rows, torch.from_numpy(clusters.cluster_centers_))


REGISTERED = {"kmeans_medoids": kmeans_medoids}
