"""`imagenette`: ten easy classes of ImageNet (J. Howard, https://github.com/fastai/imagenette), as in torchvision.

It ships ``train`` and ``val``: its ``val`` is the test split here, and ``val`` is a stratified tenth of its ``train``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from synthicl.core.assets import Asset, obtain
from synthicl.core.errors import UserError
from synthicl.data.archives import unpack
from synthicl.data.datasets import DatasetSpec, ImageDataset
from synthicl.data.datasets.folder import scan, with_val
from synthicl.data.images import LabelledImages

# WordNet id -> class name, in the order of torchvision.datasets.Imagenette.
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
FOLDERS = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
SOURCE = "https://s3.amazonaws.com/fast-ai-imageclas/{}.tgz"


def assets(root: Path, size: str) -> list[Asset]:
    """The unpacked folder, below ``root`` or ``root`` itself, or the archive beside it."""
    folder = FOLDERS[size]
    unpacked = root if root.name == folder else root / folder
    archive = unpacked.with_name(f"{folder}.tgz")
    return [Asset(f"Imagenette ({size})", "--data.root", (unpacked, archive), SOURCE.format(folder))]


def load(root: Path, split_seed: int, size: str) -> ImageDataset:
    """Find Imagenette; where there is no folder the archive is unpacked, and downloaded before if need be.

    Raises:
        UserError: the archive is damaged or out of reach, or a split or a class is missing.
    """
    (asset,) = assets(root, size)
    folder = asset.places[0]
    found = obtain(asset)
    if found != folder:
        unpack(found, folder, FOLDERS[size], lambda content: content / FOLDERS[size])
    splits: dict[str, LabelledImages] = {}
    for split in ("train", "val"):
        present = {path.name for path in (folder / split).iterdir()} if (folder / split).is_dir() else set()
        missing = sorted(set(CLASSES) - present)
        if missing:
            raise UserError(f"--data.root: {folder / split} lacks {', '.join(missing)}. Unpack the archive again.")
        splits[split] = scan(folder / split, list(CLASSES))
    return with_val({"test": splits["val"]}, splits["train"], list(CLASSES.values()), split_seed)


REGISTERED = {
    name: DatasetSpec(partial(assets, size=size), partial(load, size=size), "ImageNet terms (research use)")
    for name, size in {"imagenette": "full", "imagenette-320": "320px", "imagenette-160": "160px"}.items()
}
