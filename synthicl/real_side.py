"""The real side of the objective: what the synthetic embeddings are compared with in each step.

``bank``: embeddings of all real images, computed once. ``online``: fresh augmented images through the backbone in every
step, the reference's way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages
from synthicl.objectives.objective import LabelledEmbeddings
from synthicl.randomness import keyed_generator


@dataclass(frozen=True)
class OnlineBatches:
    """Real batches as a function of the step: shuffled, without replacement, the last partial batch dropped.

    Attributes:
        images: the training split, N images.
        labels: (N,).
        batch_size: images in a batch; all of them if there are fewer.
        image_size: resolution of the synthetic images: real ones are resized to it and randomly cropped, in pixels.
        seed: seed of the order and of the crops.
    """

    images: LabelledImages
    batch_size: int
    image_size: int
    seed: int

    def indices(self, step: int) -> Tensor:
        """Which images step ``step`` (counted from 0) sees, (B,)."""
        size = min(self.batch_size, len(self.images))
        per_epoch = len(self.images) // size
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(self.images), generator=keyed_generator(self.seed, "online order", epoch))
        return order[position * size : (position + 1) * size]

    def __call__(self, step: int) -> tuple[int, Tensor, Tensor]:
        """The batch of a step: the step, images (B, 3, S, S), uint8, and labels (B,)."""
        indices = self.indices(step)
        squares = SquareImages(self.images, self.image_size, (self.seed, "online crop", step))
        pixels = torch.stack([squares[int(index)] for index in indices])
        return step, pixels, torch.from_numpy(self.images.labels)[indices]


@dataclass(frozen=True)
class Bank:
    """An embedding bank on the device of the optimisation.

    Attributes:
        z: (V, N, D), V views of each of N images.
        y: (N,).
        batch_size: images drawn in each step, as many of each class as there are; None for all of them.
        seed: seed of the draws.
    """

    z: Tensor
    y: Tensor
    batch_size: int | None
    seed: int

    def __call__(self, step: int) -> LabelledEmbeddings:
        """The embeddings of a step: all rows, or a class-balanced minibatch with all views."""
        if self.batch_size is None or self.batch_size >= len(self.y):
            return LabelledEmbeddings(self.z.flatten(0, 1), self.y.repeat(len(self.z)))
        generator = keyed_generator(self.seed, "bank batch", step)
        shuffled = torch.randperm(len(self.y), generator=generator).to(self.y.device)
        by_class = shuffled[self.y[shuffled].argsort(stable=True)]
        counts = torch.bincount(self.y)
        starts = (counts.cumsum(0) - counts)[self.y[by_class]]
        rank_in_class = torch.arange(len(self.y), device=self.y.device) - starts
        chosen = by_class[rank_in_class < -(-self.batch_size // int((counts > 0).sum()))]
        return LabelledEmbeddings(self.z[:, chosen].flatten(0, 1), self.y[chosen].repeat(len(self.z)))
