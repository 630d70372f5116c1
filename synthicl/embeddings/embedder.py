"""Images to be classified -> embeddings, exactly as the rows of a context set were made from real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.errors import UserError
from synthicl.core.text import printable
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages

BATCH_SIZE = 64
NEEDED = ("backbone", "backbone_weights", "crop_size")  # of a context set's metadata
ADVICE = "Use the context set of a finished run, or classify embeddings instead of images."

Images = Sequence[Path | str | Image.Image] | Tensor


class ImageEmbedder:
    """The backbone of a context set behind the evaluation transform: short side resized to the crop, centre crop.

    Args:
        metadata: of the context set; it names the backbone, the fingerprint of its weights, and the crop.
        weights: a local file of the backbone's weights; None for the bundled or downloaded one.
        device: where the backbone runs.

    Raises:
        UserError: the metadata names no backbone, its weights are missing or not those of the context set, or the
            network does not take squares of that size.
    """

    def __init__(
        self, metadata: Mapping[str, Any], weights: str | Path | None = None, device: torch.device | str = "cpu"
    ) -> None:
        missing = [name for name in NEEDED if name not in metadata]
        if missing:
            raise UserError(
                f"The context set does not say which backbone its vectors come from (no {', '.join(missing)} in its "
                f"metadata). {ADVICE}"
            )
        self.backbone = FrozenBackbone(metadata["backbone"], weights).require(metadata["backbone_weights"]).to(device)
        self.crop_size = int(metadata["crop_size"])
        try:
            embed_squares(self.backbone, torch.zeros(1, 3, self.crop_size, self.crop_size, dtype=torch.uint8))
        except (AssertionError, RuntimeError, ValueError) as error:  # a network says in its own way what it cannot take
            reason = printable(str(error).partition("\n")[0][:100])
            raise UserError(
                f"The context set's crop_size={self.crop_size} does not suit its backbone {self.backbone.name} "
                f"({reason}). {ADVICE}"
            ) from error

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
        if isinstance(images, str | Path | Image.Image):
            raise UserError("One image is given where a list of images is expected. Put it into a list: [image].")
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


def _readable(image: Path | str | Image.Image | Tensor) -> Path | np.ndarray | Image.Image:
    """What `synthicl.data.images.read_image` takes.

    Raises:
        UserError: a tensor is not (3, H, W), uint8, or it is something else.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or not image.numel():
            raise UserError(
                f"Images as a tensor must be (N, 3, H, W), uint8; each of these is {tuple(image.shape)}, {image.dtype}."
            )
        return image.permute(1, 2, 0).contiguous().cpu().numpy()
    if not isinstance(image, str | Path | Image.Image):
        raise UserError(f"Images must be paths, Pillow images or a tensor; one of these is a {type(image).__name__}.")
    return Path(image) if isinstance(image, str) else image
