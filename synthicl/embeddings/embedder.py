"""Images to be classified -> embeddings, exactly as the rows of a context set were made from real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.errors import UserError
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages

BATCH_SIZE = 64
NEEDED = ("backbone", "backbone_weights", "crop_size")  # of a context set's metadata
PNG_MODES = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}  # what a PNG holds without loss

Images = Sequence[Path | str | Image.Image] | Tensor


class ImageEmbedder:
    """The backbone of a context set behind the evaluation transform: short side resized to the crop, centre crop.

    Args:
        metadata: of the context set; it names the backbone, the fingerprint of its weights, and the crop.
        weights: a local file of the backbone's weights; None for the bundled or downloaded one.
        device: where the backbone runs.

    Raises:
        UserError: the metadata names no backbone, its weights are missing, or they are not those of the context set.
    """

    def __init__(
        self, metadata: Mapping[str, Any], weights: str | Path | None = None, device: torch.device | str = "cpu"
    ) -> None:
        missing = [name for name in NEEDED if name not in metadata]
        if missing:
            raise UserError(
                f"The context set does not say which backbone its vectors come from (no {', '.join(missing)} in its "
                "metadata). Use the context set of a finished run, or classify embeddings instead of images."
            )
        self.backbone = FrozenBackbone(metadata["backbone"], weights).require(metadata["backbone_weights"]).to(device)
        self.crop_size = int(metadata["crop_size"])

    def squares(self, images: Images) -> SquareImages:
        """Images as a dataset of (3, crop, crop), uint8; each is read when it is asked for, and may raise UserError."""
        readable: list[Any] = [_readable(image) for image in images]
        return SquareImages(LabelledImages(readable, np.zeros(len(readable), dtype=np.int64)), self.crop_size)

    def __call__(self, images: Images) -> Tensor:
        """Read and embed images, batch by batch.

        Args:
            images: N paths or Pillow images, or a tensor (N, 3, H, W), uint8. Whatever their size, they are treated as
                real images are: resized, then cropped.

        Returns:
            (N, D), float32, on the CPU.

        Raises:
            UserError: there are none, or one cannot be read.
        """
        if len(images) == 0:
            raise UserError("There are no images to classify. Give at least one.")
        squares = self.squares(images)
        starts = range(0, len(squares), BATCH_SIZE)
        batches = (range(start, min(start + BATCH_SIZE, len(squares))) for start in starts)
        return torch.cat([embed_squares(self.backbone, torch.stack([squares[i] for i in batch])) for batch in batches])


@torch.no_grad()
def embed_squares(backbone: FrozenBackbone, squares: Tensor) -> Tensor:
    """Embeddings (N, D), float32, on the CPU, of squares (N, 3, s, s), uint8, as the backbone is to see them."""
    device = backbone.mean.device
    return torch.cat([backbone(part.to(device) / 255).float().cpu() for part in squares.split(BATCH_SIZE)])


def _readable(image: Path | str | Image.Image | Tensor) -> Path | np.ndarray | BytesIO:
    """What `synthicl.data.images.read_image` takes.

    Raises:
        UserError: a tensor is not (3, H, W), uint8.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
            raise UserError(
                f"Images as a tensor must be (N, 3, H, W), uint8; each of these is {tuple(image.shape)}, {image.dtype}."
            )
        return image.permute(1, 2, 0).contiguous().cpu().numpy()
    if isinstance(image, Image.Image):
        # Through a lossless file, so that transparency, 16 bit and orientation are treated as in a file on disk.
        buffer = BytesIO()
        stored = image if image.mode in PNG_MODES else image.convert("RGB")
        stored.save(buffer, "PNG", exif=image.getexif(), compress_level=0)
        return buffer
    return Path(image)
