"""``linear``: L2-regularised logistic regression on clean embeddings, the C fixed in advance.

Defined for every context, vectors included, cheap, and unique: the loss is strictly convex.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from typing_extensions import override

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe, few_rows_of_many_classes

C = 1.0  # scikit-learn's default, fixed in advance; nothing was tuned


class LinearProbe(Probe):
    """scikit-learn's logistic regression behind the `Probe` interface.

    A row with soft labels counts for every class, with that class's share as its weight.
    """

    name = "linear"

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        self.classifier = LogisticRegression(C=C, max_iter=5000)
        if context.soft_labels is None:
            with few_rows_of_many_classes():
                self.classifier.fit(context.z.numpy(), context.y.numpy())
            return
        n, classes = context.soft_labels.shape
        rows, labels = np.repeat(context.z.numpy(), classes, axis=0), np.tile(np.arange(classes), n)
        self.classifier.fit(rows, labels, sample_weight=context.soft_labels.double().flatten().numpy())

    def logit_weights(self) -> tuple[Tensor, Tensor]:
        """Weight (D, C) and bias (C,), float32, with ``softmax(z @ weight + bias)`` the probabilities."""
        weight = torch.from_numpy(self.classifier.coef_).float().T
        bias = torch.from_numpy(self.classifier.intercept_).float()
        if weight.shape[1] > 1:
            return weight, bias
        # Of two classes scikit-learn keeps the log-odds of the second.
        return torch.cat([torch.zeros_like(weight), weight], 1), torch.cat([torch.zeros_like(bias), bias])

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        probabilities: np.ndarray = self.classifier.predict_proba(z.numpy())
        return probabilities


REGISTERED = {"linear": lambda setting: LinearProbe()}
