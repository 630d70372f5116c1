"""The interface of probes, and what they are made from."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.data.augmentation import Augmentation
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing


@contextmanager
def few_rows_of_many_classes() -> Iterator[None]:
    """Fit without scikit-learn's advice that so many classes may be a regression: contexts are like that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        yield


@dataclass(frozen=True)
class ProbeSetting:
    """What factories choose from; most need little of it.

    Attributes:
        deployment: TabICL's; other in-context learners share its preprocessing.
        device: where an in-context learner runs.
        backbone: for probes that look at images; it stays on its own device.
        crop_size: resolution in pixels that the backbone sees; None for the backbone's own.
        augmentation: of a context's images; None for clean ones.
        seed: of probes that draw at random.
    """

    deployment: Deployment
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
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        """Fit on a context.

        Args:
            context: n rows (n, D), float32; some classes may be missing. A probe that can learn from soft labels
                (n, C) does, where there are any; the others take the classes.
            images: what the rows are embeddings of, (n, 3, S, S), uint8; None for vectors.
        """

    @abstractmethod
    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities (q, C) of embeddings z (q, D); columns follow the sorted labels of `fit`."""
