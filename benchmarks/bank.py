"""How near building an embedding bank comes to the backbone's own forward pass, and whether reading hides behind it."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from shapes import private_cache, random_backbone

from synthicl.data.augmentation import Augmentation
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages
from synthicl.embeddings.bank import BATCH_SIZE, embed_views
from synthicl.report.table import Table


def measure(shapes: list[tuple[str, int, int, bool, int]]) -> list[dict[str, Any]]:
    """Time each shape: backbone, images, views (0 for the clean one), whether they are JPEG files, reading workers."""
    found = []
    for name, count, views, files, workers in shapes:
        with TemporaryDirectory() as folder, private_cache():
            images = _images(count, random_backbone(name).image_size, Path(folder) if files else None)
            found.append(_one(name, images, views, files, workers))
        print(found[-1], flush=True)
    return found


@torch.no_grad()
def _one(name: str, images: LabelledImages, views: int, files: bool, workers: int) -> dict[str, Any]:
    backbone = random_backbone(name).to("cuda" if torch.cuda.is_available() else "cpu")
    size = backbone.image_size
    batch = torch.rand(BATCH_SIZE, 3, size, size, device=backbone.mean.device)

    def bare() -> float:
        """Seconds for the forward passes alone."""
        start = _now()
        for first in range(0, len(images) * max(views, 1), BATCH_SIZE):
            backbone(batch[: len(images) * max(views, 1) - first])
        return _now() - start

    bare()  # memory is allocated, kernels are chosen
    before = bare()
    start = _now()
    augmentation = Augmentation() if views else None
    embed_views(
        backbone, images, size, augmentation=augmentation, image_size=size, views=views or 1, num_workers=workers
    )
    whole = _now() - start
    forward = (before + bare()) / 2
    start = _now()
    squares = SquareImages(images, size)
    for index in range(len(images)):
        squares[index]
    reading = _now() - start
    shape = {"backbone": name, "images": len(images), "views": views, "files": files, "workers": workers}
    seconds = {"forward": forward, "reading": reading, "whole": whole, "share": forward / whole}
    return shape | seconds


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _images(count: int, size: int, folder: Path | None) -> LabelledImages:
    """Smooth noise: arrays of the backbone's size, or JPEG files of 500 x 375 pixels, as Imagenette's are."""
    generator = np.random.default_rng(0)
    images: list[Path | np.ndarray] = []
    for number in range(count):
        if folder is None:
            images.append(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))
            continue
        small = Image.fromarray(generator.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        images.append(folder / f"{number}.jpg")
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)
    return LabelledImages(images, np.zeros(count, dtype=np.int64))


def table(found: list[dict[str, Any]]) -> Table:
    """One row for each shape."""
    body = [
        [
            *(one["backbone"], str(one["images"]), str(one["views"]) if one["views"] else "clean"),
            f"JPEG, {one['workers']} processes" if one["files"] else "memory",
            *(f"{one[key]:.2f}" for key in ("forward", "reading", "whole")),
            f"{100 * one['share']:.0f} %",
        ]
        for one in found
    ]
    header = ["backbone", "images", "views", "from", "forward passes alone, s", "reading alone, s", "building, s"]
    return Table("", [*header, "share of the forward's throughput"], body)
