"""``knn``: the label that most of the nearest context rows have, by Euclidean distance."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from typing_extensions import override

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe, few_rows_of_many_classes

MAX_NEIGHBOURS = 5  # scikit-learn's default, fixed in advance


class KNNProbe(Probe):
    """scikit-learn's k-nearest neighbours behind the `Probe` interface.

    k is ``most``, or the number of rows of the smallest class if that is less: more neighbours than a class has rows
    would outvote it, and one row per class is 1-NN.

    Args:
        most: the largest k.
        name: its word in results.json.
    """

    def __init__(self, most: int = MAX_NEIGHBOURS, name: str = "knn") -> None:
        self.most = most
        self.name = name

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        _, counts = context.y.unique(return_counts=True)
        neighbours = min(self.most, int(counts.min()))
        with few_rows_of_many_classes():
            self.classifier = KNeighborsClassifier(neighbours).fit(context.z.numpy(), context.y.numpy())

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Share of each class among the neighbours."""
        probabilities: np.ndarray = self.classifier.predict_proba(z.numpy())
        return probabilities


REGISTERED = {"knn": lambda setting: KNNProbe()}
