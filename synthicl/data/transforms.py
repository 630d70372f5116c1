"""From an image of any size to a square of pixels."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from synthicl.data.images import LabelledImages, read_image
from synthicl.randomness import keyed_generator


def centre_square(image: Image.Image, size: int) -> Tensor:
    """Resize the short side to ``size`` pixels and take the centre: the evaluation transform of real images.

    Returns:
        (3, size, size), uint8.
    """
    return _square(image, size, 0.5, 0.5)


def random_square(image: Image.Image, size: int, *key: int | str) -> Tensor:
    """Resize the short side to ``size`` pixels and take a square at random, as a function of ``key``.

    Returns:
        (3, size, size), uint8.
    """
    across, down = torch.rand(2, generator=keyed_generator(*key)).tolist()
    return _square(image, size, across, down)


def _square(image: Image.Image, size: int, across: float, down: float) -> Tensor:
    resized: Tensor = transforms.pil_to_tensor(transforms.resize(image, [size]))
    top = round(down * (resized.shape[1] - size))
    left = round(across * (resized.shape[2] - size))
    return resized[:, top : top + size, left : left + size]


def crop_centre(images: Tensor, size: int) -> Tensor:
    """The central ``size`` x ``size`` pixels of images (N, C, H, W): the evaluation transform of synthetic images."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


class SquareImages(torch.utils.data.Dataset[Tensor]):
    """Images of a split as (3, size, size), uint8: the centre, or a square at random if a key is given."""

    def __init__(self, images: LabelledImages, size: int, key: tuple[int | str, ...] | None = None) -> None:
        self.images = images
        self.size = size
        self.key = key

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Read one image."""
        image = read_image(self.images.images[index])
        if self.key is None:
            return centre_square(image, self.size)
        return random_square(image, self.size, *self.key, index)
