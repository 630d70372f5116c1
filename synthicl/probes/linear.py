"""``linear``: L2-regularised logistic regression on clean embeddings, the C fixed in advance.

Defined for every context, vectors included, cheap, and unique: the loss is strictly convex.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from synthicl.probes.probe import SoftLabelProbe

C = 1.0  # scikit-learn's default, fixed in advance; nothing was tuned


class LinearProbe(SoftLabelProbe):
    """scikit-learn's logistic regression behind the `Probe` interface."""

    name = "linear"

    def fit(self, z: Tensor, y: Tensor, images: Tensor | None = None) -> None:
        """Fit; see `Probe`."""
        from sklearn.linear_model import LogisticRegression

        self.classifier = LogisticRegression(C=C, max_iter=5000).fit(z.numpy(), y.numpy())

    def fit_soft(self, z: Tensor, targets: Tensor) -> None:
        """Fit; see `SoftLabelProbe`. A row counts for every class, with that class's share as its weight."""
        from sklearn.linear_model import LogisticRegression

        n, classes = targets.shape
        rows, labels = np.repeat(z.numpy(), classes, axis=0), np.tile(np.arange(classes), n)
        weight = targets.double().flatten().numpy()
        self.classifier = LogisticRegression(C=C, max_iter=5000).fit(rows, labels, sample_weight=weight)

    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities; see `Probe`."""
        probabilities: np.ndarray = self.classifier.predict_proba(z.numpy())
        return probabilities


REGISTERED = {"linear": lambda setting: LinearProbe()}
