"""Embeddings of real images: computed once, spread over ranks, kept on disk.

The embeddings of a frozen backbone never change, so they are filed under a key made of everything they depend on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from synthicl.assets import cache_dir
from synthicl.augmentation import Augmentation
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages
from synthicl.distributed import gather_rows, owned, world
from synthicl.files import write_whole

BATCH_SIZE = 64


def fingerprint(images: LabelledImages) -> str:
    """What identifies the images of a split: pixels of images in memory; path, size and time of files."""
    digest = hashlib.sha256(np.ascontiguousarray(images.labels).tobytes())
    for image in images.images:
        if isinstance(image, Path):
            status = image.stat()
            digest.update(f"{image.resolve()}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        else:
            digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:16]


def embed_views(
    backbone: FrozenBackbone,
    images: LabelledImages,
    crop_size: int,
    *,
    augmentation: Augmentation | None = None,
    image_size: int | None = None,
    views: int = 1,
    seed: int = 0,
    num_workers: int = 0,
    what: str = "images",
) -> Tensor:
    """Embed real images, once for each view; the result is read from disk if it was computed before.

    Without augmentation there is one view, the clean one: short side resized to ``crop_size``, centre crop.

    Args:
        backbone: on the device where it is to run.
        images: N images.
        crop_size: resolution in pixels that the backbone sees.
        augmentation: if given, each view is a random square at ``image_size`` pixels, augmented to ``crop_size``.
        image_size: resolution of the synthetic images, in pixels; needed with ``augmentation``.
        views: V, number of augmented views of each image.
        seed: seed of the augmentation.
        num_workers: processes that read images.
        what: name of the images, for the progress bar.

    Returns:
        (V, N, D), float32, on the CPU, the same on every rank.
    """
    parameter = next(backbone.parameters())
    key = {
        "images": fingerprint(images),
        "backbone": [backbone.name, backbone.fingerprint],
        "crop_size": crop_size,
        "augmentation": None if augmentation is None else [vars(augmentation), image_size, views, seed],
        "precision": str(parameter.dtype),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_dir() / "embeddings" / f"{name}.safetensors"
    rank, ranks = world()
    cached = _read(path)
    if ranks > 1:  # every rank computes, or none does
        present = torch.tensor([cached is not None], dtype=torch.int32, device=parameter.device)
        torch.distributed.all_reduce(present, torch.distributed.ReduceOp.MIN)
        cached = cached if bool(present) else None
    if cached is not None:
        return cached

    mine = owned(len(images), rank, ranks)
    result = []
    for view in range(views if augmentation is not None else 1):
        z = _embed_view(backbone, images, mine, crop_size, augmentation, image_size, view, seed, num_workers, what)
        result.append(gather_rows(z, len(images)).cpu())
    embeddings = torch.stack(result)
    if rank == 0:
        write_whole(path, lambda target: target.write_bytes(save({"z": embeddings.contiguous()})))
    return embeddings


def _read(path: Path) -> Tensor | None:
    """Embeddings from disk, or None if there are none that can be read."""
    try:
        return load_file(path)["z"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


@torch.no_grad()
def _embed_view(
    backbone: FrozenBackbone,
    images: LabelledImages,
    mine: range,
    crop_size: int,
    augmentation: Augmentation | None,
    image_size: int | None,
    view: int,
    seed: int,
    num_workers: int,
    what: str,
) -> Tensor:
    """One view of the images at ``mine``, (len(mine), D), float32."""
    device = next(backbone.parameters()).device
    squares = SquareImages(images, crop_size)
    parameters = None
    if augmentation is not None:
        assert image_size is not None
        squares = SquareImages(images, image_size, (seed, "bank", view))
        parameters = augmentation.draw(len(images), image_size, seed, "bank", view)
    loader = DataLoader(Subset(squares, mine), BATCH_SIZE, num_workers=num_workers, pin_memory=device.type == "cuda")
    embedded = []
    quiet = mine.start > 0 or len(loader) < 20  # one bar, on rank 0, and none for what takes a moment
    for number, batch in enumerate(track(loader, f"Embedding {what}", disable=quiet, transient=True)):
        pixels = batch.to(device, non_blocking=True) / 255
        if augmentation is not None and parameters is not None and image_size is not None:
            start = mine.start + number * BATCH_SIZE
            pixels = augmentation.apply(pixels, parameters[start : start + len(pixels)], crop_size)
        embedded.append(backbone(pixels).float())
    return torch.cat(embedded) if embedded else torch.empty(0, backbone.embed_dim, device=device)
