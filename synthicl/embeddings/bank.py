"""Embeddings of real images: computed once, spread over ranks, kept on disk.

The embeddings of a frozen backbone never change, so they are filed under a key made of everything they depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.assets import CACHE_REMEDY, cache_dir
from synthicl.core.distributed import gather_on_hosts, owned, world
from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, FILE, kind_of, require_writable, write_whole
from synthicl.core.text import printable
from synthicl.data.augmentation import Augmentation, AugmentationParameters
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import RandomSquares, SquareImages
from synthicl.embeddings.labelled import LabelledEmbeddings

BATCH_SIZE = 64


def images_fingerprint(images: LabelledImages) -> str:
    """What identifies the images of a split: pixels of images in memory; path, size and time of files.

    Raises:
        UserError: a file is gone.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images.labels).tobytes())
    for image in images.images:
        if isinstance(image, Path):
            try:
                status, place = image.stat(), image.resolve()
            except (OSError, RuntimeError) as error:  # RuntimeError: a link in a circle
                raise UserError(f"{printable(image)}: not readable ({error}). Put it back, or start again.") from error
            # A file name need not be UTF-8.
            digest.update(os.fsencode(place) + f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
        else:
            digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:16]


def embed_clean(
    backbone: FrozenBackbone, images: LabelledImages, crop_size: int, num_workers: int = 0, what: str = "images"
) -> LabelledEmbeddings:
    """Clean embeddings of images with their labels; arguments as in `embed_views`."""
    z = embed_views(backbone, images, crop_size, num_workers=num_workers, what=what)
    return LabelledEmbeddings(z[0], torch.from_numpy(images.labels))


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

    Raises:
        UserError: an image cannot be read, the cache cannot be written, or an embedding is no number.
    """
    if images.parts:  # those of a dataset that was embedded before need not be embedded again
        shared: dict[str, Any] = {"augmentation": augmentation, "image_size": image_size, "views": views, "seed": seed}
        shared |= {"num_workers": num_workers, "what": what}
        return torch.cat([embed_views(backbone, part, crop_size, **shared) for part in images.parts], 1)
    parameter = next(backbone.parameters())
    key = {
        "images": images_fingerprint(images),
        "backbone": [backbone.name, backbone.fingerprint],
        "crop_size": crop_size,
        "augmentation": None if augmentation is None else [vars(augmentation), image_size, views, seed],
        "precision": str(parameter.dtype),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_dir() / "embeddings" / f"{name}.safetensors"
    rank, ranks = world()
    cached = _read(path, (1 if augmentation is None else views, len(images), backbone.embed_dim))
    if ranks > 1:  # every rank computes, or none does
        present = torch.tensor([cached is not None], dtype=torch.int32, device=parameter.device)
        torch.distributed.all_reduce(present, torch.distributed.ReduceOp.MIN)
        cached = cached if bool(present) else None
    if cached is not None:
        return cached

    if rank == 0:
        require_writable(path.parent, CACHE_REMEDY)
    mine = owned(len(images), rank, ranks)
    squares = SquareImages(images, crop_size)
    parameters: list[AugmentationParameters] = []
    if augmentation is not None:
        assert image_size is not None
        keys = [(seed, "bank", view) for view in range(views)]
        squares = RandomSquares(images, image_size, keys)
        parameters = [augmentation.draw(len(images), image_size, *key) for key in keys]

    def view_of(view: int, pixels: Tensor, first: int) -> Tensor:
        if augmentation is None:
            return pixels
        return augmentation.apply(pixels, parameters[view][first : first + len(pixels)], crop_size)

    rows = _embed(backbone, squares, mine, views if augmentation is not None else 1, view_of, num_workers, what)
    embeddings = torch.stack([gather_on_hosts(of_view, len(images), parameter.device) for of_view in rows])
    if not embeddings.isfinite().all():
        raise UserError(
            f"--backbone.name={backbone.name}: embeddings of {what} are NaN or infinite in {parameter.dtype}. "
            "Choose another --trainer.precision, or other weights."
        )
    if rank == 0:
        write_whole(path, lambda target: target.write_bytes(save({"z": embeddings})), CACHE_REMEDY)
    return embeddings


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Embeddings of a shape from disk, or None if there are none; what cannot be used counts for nothing."""
    if (kind := kind_of(path)) == ABSENT:
        return None
    try:
        if kind != FILE:  # a FIFO would be waited for
            raise ValueError(f"it is {kind}")
        z = load_file(path)["z"]
        if z.shape != shape or z.dtype != torch.float32:
            raise ValueError(f"it holds {tuple(z.shape)}, {z.dtype}, not {shape}")
        if not z.isfinite().all():
            raise ValueError("it holds NaN or infinite numbers")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        if world()[0] == 0:
            print(f"{path}: damaged cache file ({printable(error)}), made again.", flush=True)
        return None
    return z


@torch.no_grad()
def _embed(
    backbone: FrozenBackbone,
    squares: SquareImages,
    mine: range,
    views: int,
    view_of: Callable[[int, Tensor, int], Tensor],
    num_workers: int,
    what: str,
) -> Tensor:
    """All views of the images at ``mine``, (V, len(mine), D), float32, on the CPU; reading overlaps with embedding."""
    device = next(backbone.parameters()).device
    on_gpu = device.type == "cuda"
    loader = DataLoader(Subset(squares, mine), BATCH_SIZE, num_workers=num_workers, pin_memory=on_gpu)
    embeddings = torch.empty(views, len(mine), backbone.embed_dim, pin_memory=on_gpu)  # copied to without waiting
    quiet = mine.start > 0 or len(loader) * views < 20  # one bar, on rank 0, and none for what takes a moment
    for number, batch in enumerate(track(loader, f"Embedding {what}", disable=quiet, transient=True)):
        pixels = batch.to(device, non_blocking=True).view(len(batch), views, 3, *batch.shape[-2:])
        first = number * BATCH_SIZE
        for view in range(views):
            images = view_of(view, pixels[:, view] / 255, mine.start + first)
            embeddings[view, first : first + len(batch)].copy_(backbone(images), non_blocking=True)
    if on_gpu:
        torch.cuda.synchronize(device)
    return embeddings
