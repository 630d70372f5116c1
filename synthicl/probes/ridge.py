"""``ridge``: multi-class ridge regression on one-hot targets, in closed form; see `synthicl.core.ridge`."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from synthicl.core.ridge import ridge_weights
from synthicl.probes.probe import SoftLabelProbe

REGULARISATION = 0.1  # lambda, fixed in advance; nothing was tuned
LOGIT_SCALE = 10.0  # fixed in advance: scores are near 0 and 1, of which a softmax makes nearly equal probabilities


class RidgeProbe(SoftLabelProbe):
    """Ridge classifier behind the `Probe` interface.

    Its probabilities order the classes and no more: they are a softmax of scores times a fixed number, not calibrated.
    """

    name = "ridge"

    def fit(self, z: Tensor, y: Tensor, images: Tensor | None = None) -> None:
        """Fit; see `Probe`."""
        _, targets = y.unique(return_inverse=True)
        self.fit_soft(z, F.one_hot(targets))

    def fit_soft(self, z: Tensor, targets: Tensor) -> None:
        """Fit; see `SoftLabelProbe`."""
        self._weight, self._bias = ridge_weights(z, targets, REGULARISATION)
        if not self._weight.isfinite().all():
            raise ValueError("the ridge probe has no finite solution: are the embeddings finite?")

    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities; see `Probe`."""
        return ((z @ self._weight + self._bias) * LOGIT_SCALE).softmax(1).numpy()


REGISTERED = {"ridge": lambda setting: RidgeProbe()}
