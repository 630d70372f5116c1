"""A dataset and folders of further images: classes that it lacks come after its own, images of its own join them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synthicl.data.datasets import ImageDataset
from synthicl.data.datasets.folder import load
from synthicl.data.images import LabelledImages


def with_more(dataset: ImageDataset, folders: Sequence[Path], split_seed: int) -> ImageDataset:
    """Put the images of folders to those of a dataset, split by split; no image moves to another split by that.

    Args:
        dataset: whose classes keep their indices.
        folders: each as ``--data.root`` of the dataset ``folder``; one class is enough.
        split_seed: seed of the splits that a folder does not fix itself.

    Raises:
        UserError: a folder is none of images.
    """
    names = list(dataset.class_names)
    parts = {split: [images] for split, images in dataset.splits.items()}
    for root in folders:
        found = load(root, split_seed, least=1)
        names += [name for name in found.class_names if name not in names]
        label = np.array([names.index(name) for name in found.class_names], dtype=np.int64)
        for split, images in found.splits.items():
            parts[split].append(LabelledImages(images.images, label[images.labels], images.groups))
    return ImageDataset({split: _joined(some) for split, some in parts.items()}, names) if folders else dataset


def _joined(parts: Sequence[LabelledImages]) -> LabelledImages:
    """All of them; with groups where every part has some, since a share of the images in groups says little."""
    images = [image for part in parts for image in part.images]
    named = [part.groups for part in parts if part.groups is not None]
    groups = np.concatenate(named) if len(named) == len(parts) else None
    return LabelledImages(images, np.concatenate([part.labels for part in parts]), groups, parts)
