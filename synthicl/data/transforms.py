"""From an image of any size to a square of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from synthicl.core.randomness import keyed_generator
from synthicl.data.images import LabelledImages, read_image


def centre_square(image: Image.Image, size: int) -> Tensor:
    """Resize the short side to ``size`` pixels and take the centre: the evaluation transform of real images.

    Returns:
        (3, size, size), uint8.
    """
    return _square(_resize(image, size), size, 0.5, 0.5)


def random_squares(image: Image.Image, size: int, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
    """Resize the short side to ``size`` pixels and take squares at random, each a function of its key.

    Returns:
        (len(keys), 3, size, size), uint8.
    """
    resized = _resize(image, size)
    places = [torch.rand(2, generator=keyed_generator(*key)).tolist() for key in keys]
    return torch.stack([_square(resized, size, across, down) for across, down in places])


def _resize(image: Image.Image, size: int) -> Tensor:
    """The whole image, its short side ``size`` pixels, uint8."""
    resized: Tensor = transforms.pil_to_tensor(transforms.resize(image, [size]))
    return resized


def _square(resized: Tensor, size: int, across: float, down: float) -> Tensor:
    top = round(down * (resized.shape[1] - size))
    left = round(across * (resized.shape[2] - size))
    return resized[:, top : top + size, left : left + size]


def crop_centre(images: Tensor, size: int) -> Tensor:
    """The central ``size`` x ``size`` pixels of images (N, C, H, W): the evaluation transform of synthetic images."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


class SquareImages(torch.utils.data.Dataset[Tensor]):
    """The centre of each image of a split, (3, size, size), uint8."""

    def __init__(self, images: LabelledImages, size: int) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Read one image."""
        return centre_square(read_image(self.images.images[index]), self.size)


class RandomSquares(SquareImages):
    """Random squares of each image of a split, one for each key, (V, 3, size, size), uint8; it is read once for all."""

    def __init__(self, images: LabelledImages, size: int, keys: Sequence[tuple[int | str, ...]]) -> None:
        super().__init__(images, size)
        self.keys = keys

    def __getitem__(self, index: int) -> Tensor:
        """Read one image."""
        keys = [(*key, index) for key in self.keys]
        return random_squares(read_image(self.images.images[index]), self.size, keys)


def to_uint8(images: Tensor) -> Tensor:
    """Round images (N, 3, H, W) in [0, 1] to 8 bit, as a PNG holds them."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
