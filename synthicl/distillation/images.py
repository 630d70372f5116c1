"""The synthetic images: pyramids, classes and soft labels, spread over ranks, and as others read them.

Their optimisation is the Distiller's; here is what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthicl.core.distributed import collect_rows, gather_rows, owned, world
from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.data.transforms import to_uint8
from synthicl.distillation.frozen import FrozenImages
from synthicl.distillation.grad_cache import chunks
from synthicl.distillation.pyramid import SyntheticPyramid, resolutions

MAX_PIXELS = 2**13  # on each side: no backbone is made for more, and a mistyped number would fill the memory
OWN_CLASS = 0.9  # probability of an image's own class where soft labels begin


@dataclass(frozen=True)
class ImageSettings:
    """How the synthetic images are stored.

    Attributes:
        size: resolution S, in pixels.
        parameterisation: ``pyramid`` grows from 1 x 1 to S x S, ``pixels`` has the full resolution from the start.
        init: how new levels begin, see `SyntheticPyramid`.
        decorrelate: whether colours are stored decorrelated.
        grow_every: steps between two levels of the pyramid. The reference has 200.
        soft_labels: whether the labels are learnt as well, as probabilities.
    """

    size: int = 256
    parameterisation: Literal["pyramid", "pixels"] = "pyramid"
    init: Literal["noise", "zero"] = "noise"
    decorrelate: bool = True
    grow_every: int = 200
    soft_labels: bool = False

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is out of range.
        """
        check_between(1, MAX_PIXELS, "--model.images.", size=self.size)
        check_at_least(1, "--model.images.", grow_every=self.grow_every)


def bytes_of_images(settings: ImageSettings, number: int) -> int:
    """What so many images take when their pyramids are complete, without gradients and optimiser state."""
    sizes = resolutions(settings.size) if settings.parameterisation == "pyramid" else [settings.size]
    return number * 3 * 4 * sum(size**2 for size in sizes)


class SyntheticImages(nn.Module):
    """The n images that are optimised, one class after the other, of which this rank holds a block.

    They are ipc of each class, those with frozen images left out. All parameters are of images: the first dimension of
    each counts those of this rank.

    Args:
        settings: how they are stored.
        num_classes: C.
        ipc: images per class.
        seed: seed of the initial values, which do not depend on the rank that holds an image.
        frozen: images of the first classes that stay as they are, ipc of each; None where all are optimised.

    Attributes:
        mine: which of the n images this rank holds.

    Raises:
        UserError: there are more ranks than images.
    """

    def __init__(
        self, settings: ImageSettings, num_classes: int, ipc: int, seed: int, frozen: FrozenImages | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        self.ipc = ipc
        self.frozen = frozen
        self._first_class = 0 if frozen is None else frozen.num_classes
        rank, ranks = world()
        if ranks > self.total:
            raise UserError(
                f"--trainer.devices: {ranks} devices for {self.total} images. Use at most one for each image."
            )
        self.mine = owned(self.total, rank, ranks)
        grows = settings.parameterisation == "pyramid"
        numbers = [self._first_class * ipc + image for image in self.mine]  # among all, frozen ones included
        self.pyramid = SyntheticPyramid(numbers, settings.size, seed, settings.init, grows, settings.decorrelate)
        self.soft_label_logits: nn.Parameter | None = None
        if settings.soft_labels:
            # A softmax of these gives an image's own class OWN_CLASS, the others the same share of the rest.
            own = math.log(OWN_CLASS * (num_classes - 1) / (1 - OWN_CLASS))
            self.soft_label_logits = nn.Parameter(own * F.one_hot(self.labels[self.mine], num_classes).float())

    @property
    def total(self) -> int:
        """Number n of optimised images on all ranks."""
        return (self.num_classes - self._first_class) * self.ipc

    @property
    def device(self) -> torch.device:
        """Where this rank's images lie."""
        device: torch.device = self.pyramid.levels[0].device
        return device

    @property
    def labels(self) -> Tensor:
        """Class index of each optimised image of all ranks, (n,)."""
        return self.all_labels[self._first_class * self.ipc :]

    @property
    def all_labels(self) -> Tensor:
        """Class index of each image, frozen ones included, (C ipc,)."""
        return torch.arange(self.num_classes, device=self.device).repeat_interleave(self.ipc)

    def soft_labels(self) -> Tensor | None:
        """Soft labels of this rank's images, (n_rank, C), if they are learnt."""
        return None if self.soft_label_logits is None else self.soft_label_logits.softmax(1)

    @torch.no_grad()
    def gather_soft_labels(self) -> Tensor | None:
        """Soft labels of all optimised images, (n, C), the same on every rank, if they are learnt; collective."""
        mine = self.soft_labels()
        return None if mine is None else gather_rows(mine, self.total)

    @property
    def complete_bytes(self) -> int:
        """What this rank's images need besides a step: complete pyramids, their gradients, and two moments of Adam."""
        numbers = len(self.mine) * 3 * sum(resolution**2 for resolution in self.pyramid.resolutions)
        size: int = self.pyramid.levels[0].element_size()
        return 4 * numbers * size

    def grow_when_due(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Add the level that begins with a step, if one does; the optimiser starts the levels afresh."""
        # The reference counts steps from 0 and grows when step > 1 and (step - 1) % 200 == 0.
        if step > 1 and (step - 1) % self.settings.grow_every == 0 and not self.pyramid.is_complete:
            for level in self.pyramid.levels:
                optimizer.state.pop(level, None)
            self.pyramid.grow()
            optimizer.param_groups[0]["params"] = list(self.parameters())

    def zero_gradients(self) -> None:
        """Give the levels the gradients that chunks add to, see `SyntheticPyramid.decode`."""
        for level in self.pyramid.levels:
            level.grad = torch.zeros_like(level)

    def all_finite(self) -> Tensor:
        """Whether every number of this rank's pyramids is finite, a bool on the device."""
        return torch.stack([torch.isfinite(level).all() for level in self.pyramid.levels]).all()

    @torch.no_grad()
    def in_8_bit(self, at_once: int) -> Iterator[Tensor]:
        """This rank's images, (N, 3, S, S), uint8, at most ``at_once`` at a time."""
        for part in chunks(len(self.mine), at_once):
            yield to_uint8(self.pyramid.decode(part))

    def collect(self, at_once: int) -> Tensor:
        """All images, frozen ones first, (C ipc, 3, S, S), uint8, on the CPU; a collective call.

        On other ranks than 0 it is only theirs.
        """
        size = self.settings.size
        none = torch.empty(0, 3, size, size, dtype=torch.uint8, device=self.device)
        optimised = collect_rows(torch.cat([none, *self.in_8_bit(at_once)]), self.total)
        return optimised if self.frozen is None else torch.cat([self.frozen.images.cpu(), optimised])
