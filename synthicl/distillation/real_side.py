"""The real side of the objective: what the synthetic embeddings are compared with in each step.

``bank``: embeddings of all real images, computed once. ``online``: other real images through the backbone in every
step, augmented as the synthetic ones are, the reference's way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synthicl.core.distributed import owned
from synthicl.core.memory import to_device
from synthicl.core.randomness import keyed_generator
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import RandomSquares, SquareImages
from synthicl.embeddings.labelled import LabelledEmbeddings


@dataclass(frozen=True)
class OnlineBatches:
    """Real batches as a function of the step: shuffled, without replacement, the last partial batch dropped.

    Attributes:
        images: the training split, N images.
        labels: (N,).
        batch_size: images in a batch; all of them if there are fewer.
        image_size: resolution in pixels: images are resized to it on the short side and randomly cropped.
        seed: seed of the order and of the crops.
        clean: whether the squares are the images' centres, as in an embedding bank.
        rank: which share of a batch's images is read.
        ranks: number of shares.
    """

    images: LabelledImages
    batch_size: int
    image_size: int
    seed: int
    clean: bool = False
    rank: int = 0
    ranks: int = 1

    def indices(self, step: int) -> Tensor:
        """Which images step ``step`` (counted from 0) sees, (B,)."""
        size = min(self.batch_size, len(self.images))
        per_epoch = len(self.images) // size
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(self.images), generator=keyed_generator(self.seed, "online order", epoch))
        return order[position * size : (position + 1) * size]

    def __call__(self, step: int) -> tuple[int, Tensor, Tensor]:
        """The batch of a step: the step, this rank's images (B_rank, 3, S, S), uint8, and the labels of all, (B,)."""
        indices = self.indices(step)
        share = owned(len(indices), self.rank, self.ranks)
        crops = RandomSquares(self.images, self.image_size, [(self.seed, "online crop", step)])
        squares = SquareImages(self.images, self.image_size) if self.clean else crops
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        pixels = [squares[int(index)].view(-1, *empty.shape[1:]) for index in indices[share.start : share.stop]]
        return step, torch.cat([empty, *pixels]), torch.from_numpy(self.images.labels)[indices]


class Bank:
    """An embedding bank. It lies on the device if every step uses all of it, and else in the host's memory.

    Args:
        z: (V, N, D), V views of each of N images, on the CPU.
        y: (N,), on the CPU.
        batch_size: images drawn in each step, as many of each class as there are; None for all of them.
        seed: seed of the draws.
        device: where a step's embeddings go.
    """

    def __init__(
        self, z: Tensor, y: Tensor, batch_size: int | None, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.batch_size = batch_size if batch_size is None or batch_size < len(y) else None
        self.seed = seed
        self.device = torch.device(device)
        if self.batch_size is None:
            self._all = LabelledEmbeddings(z.flatten(0, 1).to(device), y.repeat(len(z)).to(device))
            return
        self._z, self._y = z, y
        shuffled = torch.randperm(len(y), generator=keyed_generator(seed, "bank order"))
        self._by_class = shuffled[y[shuffled].argsort(stable=True)]
        self._counts = torch.bincount(y)
        self._starts = self._counts.cumsum(0) - self._counts
        self._per_class = -(-self.batch_size // int((self._counts > 0).sum()))

    def __call__(self, step: int) -> LabelledEmbeddings:
        """The embeddings of a step: all rows, or a class-balanced minibatch with all views."""
        if self.batch_size is None:
            return self._all
        chosen = self._draw(step)
        z, y = self._z[:, chosen].flatten(0, 1), self._y[chosen].repeat(len(self._z))
        return LabelledEmbeddings(to_device(z, self.device), to_device(y, self.device))

    def _draw(self, step: int) -> Tensor:
        """Indices of a minibatch: no image twice, all images of a class equally often.

        Each class is cut into as many parts as images are drawn of it; one is drawn of each part, and the class is
        turned by a random number of places. The time does not depend on N, as a shuffle's would.
        """
        generator = keyed_generator(self.seed, "bank batch", step)
        counts, parts = self._counts[:, None], self._counts.clamp_max(self._per_class)[:, None]
        part = torch.arange(self._per_class)
        first, end = (part * counts // parts.clamp_min(1), (part + 1) * counts // parts.clamp_min(1))
        within, turn = torch.rand((2, *first.shape), dtype=torch.float64, generator=generator)
        place = (first + (within * (end - first)).long() + (turn[:, :1] * counts).long()) % counts.clamp_min(1)
        return self._by_class[(self._starts[:, None] + place)[part < parts]]
