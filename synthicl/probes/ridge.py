"""``ridge``: multi-class ridge regression on one-hot or soft labels, in closed form: `synthicl.core.ridge`."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from synthicl.core.ridge import ridge_weights
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe

REGULARISATION = 0.1  # lambda, fixed in advance; nothing was tuned
LOGIT_SCALE = 10.0  # fixed in advance: scores are near 0 and 1, of which a softmax makes nearly equal probabilities


class RidgeProbe(Probe):
    """Ridge classifier behind the `Probe` interface.

    Its probabilities order the classes and no more: they are a softmax of scores times a fixed number, not calibrated.
    """

    name = "ridge"

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        targets = context.soft_labels
        if targets is None:
            targets = F.one_hot(context.y.unique(return_inverse=True)[1])
        self._weight, self._bias = ridge_weights(context.z, targets, REGULARISATION)
        if not self._weight.isfinite().all():
            raise ValueError("the ridge probe has no finite solution: are the embeddings finite?")

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        return ((z @ self._weight + self._bias) * LOGIT_SCALE).softmax(1).numpy()


REGISTERED = {"ridge": lambda setting: RidgeProbe()}
