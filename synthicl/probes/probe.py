"""The interface of probes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from synthicl.in_context.protocol import Protocol


class Probe(ABC):
    """A classifier of embeddings.

    Attributes:
        name: its word in results.json.
        protocol: the TabICL protocol it uses, or None.
    """

    name: str
    protocol: Protocol | None = None

    @abstractmethod
    def fit(self, z: Tensor, y: Tensor) -> None:
        """Fit on context rows z (n, D), float32, with labels y (n,) in ``range(C)``."""

    @abstractmethod
    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities (q, C) of embeddings z (q, D); columns follow the sorted labels of `fit`."""
