"""Images that are held out and trained on at once: what they score is no accuracy on new images."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from synthicl.core.text import printable
from synthicl.data.images import LabelledImages


@rank_zero_only
def warn_of_identical(splits: Mapping[str, LabelledImages]) -> None:
    """Print one line if files of val or test lie in train as well, byte by byte, under whatever name.

    Only files of equal size are read. The same picture in another format is not found.

    Args:
        splits: ``train``, ``val`` and ``test``.
    """
    sizes = {name: [_size(image) for image in split.images] for name, split in splits.items()}
    held_out = {size for name in ("val", "test") for size in sizes[name]}
    train = {
        _content(image): image
        for image, size in zip(splits["train"].images, sizes["train"], strict=True)
        if size in held_out
    }
    in_train = set(sizes["train"])
    found = {
        name: [
            (image, train[content])
            for image, size in zip(splits[name].images, sizes[name], strict=True)
            if size in in_train and (content := _content(image)) in train
        ]
        for name in ("val", "test")
    }
    if not any(found.values()):
        return
    shares = [f"{len(some)} of {len(splits[name])} images of {name}" for name, some in found.items() if some]
    image, other = next(pair for pairs in found.values() for pair in pairs)
    example = f", for example {printable(image)} as {printable(other)}" if isinstance(image, Path) else ""
    print(
        f"Warning: {' and '.join(shares)} are in train as well{example}. Scores are too high until they are removed.",
        flush=True,
    )


def _size(image: Path | np.ndarray) -> Hashable:
    """What two equal images have in common, without reading them."""
    if not isinstance(image, Path):
        return image.shape
    try:
        return image.stat().st_size
    except OSError:  # whoever reads it says so
        return None


def _content(image: Path | np.ndarray) -> bytes:
    try:
        content = image.read_bytes() if isinstance(image, Path) else np.ascontiguousarray(image).tobytes()
    except OSError:
        content = str(image).encode(errors="replace")
    return hashlib.sha256(content).digest()
