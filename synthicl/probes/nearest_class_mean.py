"""``nearest_class_mean``: the class whose mean of context rows is nearest, by Euclidean distance.

T. Mensink et al., "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero Cost", TPAMI 2013;
without a learnt metric it is scikit-learn's ``NearestCentroid``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synthicl.probes.probe import Probe


class NearestClassMeanProbe(Probe):
    """Nearest class mean; probabilities are the softmax of negative squared distances, not calibrated."""

    name = "nearest_class_mean"

    def fit(self, z: Tensor, y: Tensor, images: Tensor | None = None) -> None:
        """Fit; see `Probe`."""
        self._means = torch.stack([z[y == label].double().mean(0) for label in y.unique()])

    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities; see `Probe`."""
        # -|z - m|^2 without |z|^2, which is the same for all classes
        return (2 * z.double() @ self._means.T - self._means.square().sum(1)).softmax(1).numpy()


REGISTERED = {"nearest_class_mean": lambda setting: NearestClassMeanProbe()}
