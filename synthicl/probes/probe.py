"""The interface of probes, and what they are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from synthicl.tabicl.preprocessing import Preprocessing

if TYPE_CHECKING:
    from synthicl.backbones.frozen import FrozenBackbone
    from synthicl.data.augmentation import Augmentation


@dataclass(frozen=True)
class ProbeSetting:
    """What factories choose from; most need little of it.

    Attributes:
        preprocessing: of an in-context learner.
        model_path: TabICL's checkpoint.
        device: where an in-context learner runs.
        backbone: for probes that look at images; it stays on its own device.
        crop_size: resolution in pixels that the backbone sees; None for the backbone's own.
        augmentation: of a context's images; None for clean ones.
        seed: of probes that draw at random.
    """

    preprocessing: Preprocessing
    model_path: Path
    device: torch.device | str = "cpu"
    backbone: FrozenBackbone | None = None
    crop_size: int | None = None
    augmentation: Augmentation | None = None
    seed: int = 0


class Probe(ABC):
    """A classifier of embeddings.

    Attributes:
        name: its word in results.json.
        preprocessing: the preprocessing of an in-context learner, or None.
        weights: fingerprint of the file of weights, where they are not the subject's own.
        needs_images: whether it is fitted on images, and so only on contexts that have them.
    """

    name: str
    preprocessing: Preprocessing | None = None
    weights: str | None = None
    needs_images: ClassVar[bool] = False

    @abstractmethod
    def fit(self, z: Tensor, y: Tensor, images: Tensor | None = None) -> None:
        """Fit on a context.

        Args:
            z: context rows (n, D), float32.
            y: labels (n,), class indices; some classes may be missing.
            images: what the rows are embeddings of, (n, 3, S, S), uint8; None for vectors.
        """

    @abstractmethod
    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities (q, C) of embeddings z (q, D); columns follow the sorted labels of `fit`."""


class SoftLabelProbe(Probe):
    """A classifier that can be fitted on soft labels as well."""

    @abstractmethod
    def fit_soft(self, z: Tensor, targets: Tensor) -> None:
        """Fit on context rows z (n, D), float32, with soft labels (n, C), rows that sum to 1."""
