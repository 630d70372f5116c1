"""What every objective is given and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class LabelledEmbeddings(NamedTuple):
    """Embeddings with their labels.

    Attributes:
        z: (N, D), float32.
        y: (N,), class indices, int64.
        views: number of augmented views of each synthetic image; its rows follow each other.
    """

    z: Tensor
    y: Tensor
    views: int = 1


class Objective(ABC):
    """A scalar function of synthetic and real embeddings, to be minimised by the synthetic images."""

    def __repr__(self) -> str:
        """Name and plain settings: what identifies an objective in results and cards."""
        plain = (int, float, str, bool, list, type(None))
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if isinstance(value, plain))
        return f"{type(self).__name__}({settings})"

    def prepare(self, train: LabelledEmbeddings) -> None:  # noqa: B027 - most objectives have nothing to prepare
        """Fit what depends on the training data, once, before the first step.

        Args:
            train: clean embeddings of the training split, on the device of the optimisation.
        """

    @abstractmethod
    def __call__(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of one step.

        Args:
            synthetic: embeddings of all synthetic images and views; the loss is differentiable with respect to ``z``.
            real: embeddings of real images.
            num_classes: C.
            generator: CPU generator of this step's random draws, a function of (seed, step) alone.

        Returns:
            A scalar, float32.
        """
