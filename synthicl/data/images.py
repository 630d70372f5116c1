"""Labelled images as they lie on disk or in memory, and the one place where an image is read.

Nothing here imports torch: the checks that must answer at once run before it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, FILE, FOLDER, kind_of
from synthicl.core.text import printable

SPLITS = ("train", "val", "test")
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")  # whatever the suffix
CONVERTED = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"}


@dataclass(frozen=True)
class LabelledImages:
    """One split: images not read yet, and their labels.

    Attributes:
        images: paths, or arrays of shape (H, W) or (H, W, 3), uint8.
        labels: class index of each image, in ``range(C)``.
        groups: name of each image's group (a shop, a hospital, a background), by which results are told apart; None
            where the dataset says none. No optimisation and no choice looks at them.
        parts: what it was put together from, in this order; none for what is of one piece. Each is embedded by itself.
    """

    images: Sequence[Path | np.ndarray]
    labels: np.ndarray
    groups: np.ndarray | None = None
    parts: Sequence[LabelledImages] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, indices: np.ndarray) -> LabelledImages:
        """Return the images at ``indices``, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return LabelledImages([self.images[i] for i in indices], self.labels[indices], groups)


def read_image(image: Path | np.ndarray | Image.Image) -> Image.Image:
    """Read one image as RGB, upright, and of several frames or pages the first.

    | what the file holds | what becomes of it |
    | --- | --- |
    | RGB, a palette, black and white, grey of 8 bit, YCbCr, HSV, CMYK | RGB as Pillow converts it, no colour profile |
    | transparency, in a channel or a palette | laid on white |
    | more than 8 bit of grey: 16 and 32 bit, floating point | the smallest of the ranges 0..1 (floating point only), \
0..255, 0..4095 (12 bit, as medical devices write it) and 0..65535 that holds all its pixels goes from black to white; \
where none does, or some are negative, its own lowest pixel is black and its highest white |
    | any other mode, such as LAB, and numbers that are NaN or infinite | refused |

    Args:
        image: a file; only a plain one is opened. An array of shape (H, W) or (H, W, 3), uint8. A Pillow image,
            which is left open.

    Raises:
        UserError: the file is no image that Pillow can read, or of a mode that has no rule; the message names both.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image).convert("RGB")
    name = printable(image) if isinstance(image, Path) else "an image in memory"
    if isinstance(image, Path) and (kind := kind_of(image)) not in (FILE, FOLDER, ABSENT):
        raise UserError(f"{name}: not a readable image (it is {kind}). Remove it or replace it.")
    try:
        # Cameras store how they were held, not upright pixels.
        source = Image.open(image, formats=_formats()) if isinstance(image, Path) else nullcontext(image)
        with source as opened, ImageOps.exif_transpose(opened) as file:
            return _rgb(file)
    except Exception as error:  # Pillow's plugins state no list of what they raise on damaged files
        # Some of them name the file by themselves.
        reason = printable(str(error) or type(error).__name__)
        raise UserError(f"{name}: not a readable image ({reason}). Remove it or replace it.") from error


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow can decode by itself. Of the others, EPS for one starts another program."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _rgb(file: Image.Image) -> Image.Image:
    """Convert by the rules of `read_image`.

    Raises:
        ValueError: there is none for its mode.
    """
    if file.mode in {"I", "F"} or file.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(np.asarray(file))).convert("RGB")
    if file.mode not in CONVERTED:
        raise ValueError(f"mode {file.mode} has no rule: save it as RGB of 8 bit")
    if "A" in file.getbands() or "a" in file.getbands() or "transparency" in file.info:
        white = Image.new("RGBA", file.size, "white")
        # Pillow knows no direct way from grey with premultiplied alpha.
        straight = file.convert("LA") if file.mode == "La" else file
        return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")
    return file.convert("RGB")


def _eight_bit(grey: np.ndarray) -> np.ndarray:
    """Grey of any range (H, W) as uint8, by the rules of `read_image`."""
    lowest, highest = float(grey.min()), float(grey.max())
    if not np.isfinite(lowest + highest):
        raise ValueError("some of its numbers are NaN or infinite")
    whole = grey.dtype.kind in "iu"
    if lowest >= 0 and not whole and highest <= 1:
        return np.round(grey * 255).astype(np.uint8)
    bits = next((bits for bits in (8, 12, 16) if highest < 2**bits), None)
    if lowest < 0 or bits is None:
        return np.round((grey.astype(np.float64) - lowest) * (255 / max(highest - lowest, 1e-300))).astype(np.uint8)
    return (grey.astype(np.uint16) >> (bits - 8)).astype(np.uint8)
