"""``nearest_class_mean``: the class whose mean of context rows is nearest, by Euclidean distance.

T. Mensink et al., "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero Cost", TPAMI 2013;
without a learnt metric it is scikit-learn's ``NearestCentroid``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe


class NearestClassMeanProbe(Probe):
    """Nearest class mean; probabilities are the softmax of negative squared distances, not calibrated."""

    name = "nearest_class_mean"

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        self._means = torch.stack([context.z[context.y == label].double().mean(0) for label in context.y.unique()])

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        # -|z - m|^2 without |z|^2, which is the same for all classes
        return (2 * z.double() @ self._means.T - self._means.square().sum(1)).softmax(1).numpy()


REGISTERED = {"nearest_class_mean": lambda setting: NearestClassMeanProbe()}
