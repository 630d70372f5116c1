"""Labelled images as they lie on disk or in memory, and the one place where an image is read.

Nothing here imports torch: the checks that must answer at once run before it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from synthicl.core.errors import UserError

SPLITS = ("train", "val", "test")
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class LabelledImages:
    """One split: images not read yet, and their labels.

    Attributes:
        images: paths, or arrays of shape (H, W) or (H, W, 3), uint8.
        labels: class index of each image, in ``range(C)``.
    """

    images: Sequence[Path | np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: np.ndarray) -> LabelledImages:
        """Return the images at ``indices``, in that order."""
        return LabelledImages([self.images[i] for i in indices], self.labels[indices])


def read_image(image: Path | np.ndarray) -> Image.Image:
    """Read one image as RGB: upright, grey repeated, transparency laid on white, palettes and 16 bit converted.

    Raises:
        UserError: the file is no image that Pillow can read; the message names it.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image).convert("RGB")
    try:
        with Image.open(image) as opened:
            file = ImageOps.exif_transpose(opened)  # cameras store how they were held, not upright pixels
            if file.mode.startswith("I;16"):  # convert("RGB") would clip 16 bit at 255 instead of scaling it
                return Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
            if "A" in file.getbands() or "transparency" in file.info:
                white = Image.new("RGBA", file.size, "white")
                return Image.alpha_composite(white, file.convert("RGBA")).convert("RGB")
            return file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{image}: not a readable image ({error}). Remove it or replace it.") from error
