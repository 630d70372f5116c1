"""`folder`: one's own images, one subfolder per class, or with their labels in ``metadata.csv`` or ``metadata.jsonl``.

``--data.root`` is either the folder of the classes, split 60 / 20 / 20, or a folder with ``train`` and ``test`` (and
perhaps ``val``) that each hold the classes. Where only ``train`` and ``val`` are given, ``val`` is the test split, and
a stratified tenth of ``train`` is held out as ``val``. Where there are metadata files, classes are the labels in them,
and subfolders are only places (see `synthicl.data.metadata`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synthicl.core.assets import Asset
from synthicl.core.errors import UserError
from synthicl.core.files import FILE, FOLDER, kind_of, safe_folder_name
from synthicl.core.text import printable
from synthicl.data.datasets import DatasetSpec, ImageDataset
from synthicl.data.images import EXTENSIONS, SPLITS, LabelledImages
from synthicl.data.metadata import labelled_by, metadata_files
from synthicl.data.splits import stratified_split

FRACTIONS = {"val": 0.2, "test": 0.2}  # of a folder that comes without splits
OTHER_NAMES = {"train": {"training"}, "val": {"valid", "validation"}, "test": {"testing"}}  # of splits
LEAST = {1: "one class is", 2: "two classes are"}
VAL_OF_TRAIN = {"val": 0.1}  # of a dataset that comes without a val split


def class_folders(root: Path) -> list[Path]:
    """The class subfolders of ``root`` in alphabetical order, hidden ones left out."""
    try:
        return sorted(path for path in root.iterdir() if kind_of(path) == FOLDER and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"--data.root: {root} cannot be read ({error.strerror}). Change its permissions.") from error


def scan(root: Path, class_names: list[str]) -> LabelledImages:
    """List the images below ``root/<class>/``, in alphabetical order; nothing is opened.

    Raises:
        UserError: a file there is no image by its name, or a class folder is not one of ``class_names``.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for folder in class_folders(root):
        if folder.name not in class_names:
            shown = printable(folder)
            raise UserError(f"--data.root: class folder {shown} has no images in train. Add some, or remove it.")
        for path in sorted(folder.rglob("*")):
            kind = kind_of(path)
            if kind == FOLDER or any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if kind != FILE:
                raise UserError(f"--data.root: {printable(path)} is {kind}, not an image. Remove it.")
            if path.suffix.lower() not in EXTENSIONS:
                suffixes = ", ".join(sorted(EXTENSIONS))
                raise UserError(f"--data.root: {printable(path)} is not an image ({suffixes}). Remove it.")
            paths.append(path)
            labels.append(class_names.index(folder.name))
    return LabelledImages(paths, np.array(labels, dtype=np.int64))


def load(root: Path, split_seed: int = 0, least: int = 2) -> ImageDataset:
    """Find the images of a folder dataset and split them.

    Args:
        root: of the dataset.
        split_seed: seed of the splits that are not given.
        least: number of classes that are needed: 1 where they come to those of another dataset, else 2.

    Raises:
        UserError: no such folder, fewer classes than needed, a class without images, a name that cannot be written, a
            metadata file that does not say what it should, or a split in other words.
    """
    if kind_of(root) != FOLDER:
        raise UserError(f"--data.root={root}: not a folder. Name the folder that holds one subfolder per class.")
    for folder in class_folders(root):
        if other := next((name for name in SPLITS if folder.name.lower() in OTHER_NAMES[name]), None):
            shown = printable(folder)
            raise UserError(f"--data.root={root}: {shown} looks like a split and would not be one. Call it {other}.")
    present = [name for name in SPLITS if (root / name).is_dir()]
    splits = present if "train" in present and len(present) > 1 else []
    if files := metadata_files(root, splits):
        parts, class_names = labelled_by(files, root, splits)
        if len(class_names) < least:
            raise UserError(
                f"--data.root={root}: found {len(class_names)} labels in {files[0]}. At least {LEAST[least]} needed."
            )
    else:
        parts, class_names = labelled_by_folders(root, splits, least)
    train = parts.pop("train")
    if parts:
        return with_val(parts, train, class_names, split_seed)
    indices = stratified_split(train.labels, FRACTIONS, split_seed)
    return ImageDataset({name: train.take(some) for name, some in indices.items()}, class_names)


def labelled_by_folders(
    root: Path, splits: Sequence[str], least: int = 2
) -> tuple[dict[str, LabelledImages], list[str]]:
    """The images of each split, and the names of their classes: of the subfolders of train.

    Raises:
        UserError: fewer classes than needed, a class without images, or a name that cannot be written.
    """
    train_root = root / "train" if splits else root
    class_names = [safe_folder_name(folder.name) for folder in class_folders(train_root)]
    if len(class_names) < least:
        raise UserError(
            f"--data.root={root}: found {len(class_names)} class folders in {train_root}. "
            f"Put the images of each class into a subfolder of its own; at least {LEAST[least]} needed."
        )
    parts = {name: scan(root / name, class_names) for name in splits} or {"train": scan(root, class_names)}
    for label, name in enumerate(class_names):
        if not (parts["train"].labels == label).any():
            raise UserError(
                f"--data.root={root}: no images in class folder {train_root / name}. Add some, or remove it."
            )
    return parts, class_names


def with_val(
    held_out: dict[str, LabelledImages], train: LabelledImages, class_names: list[str], split_seed: int
) -> ImageDataset:
    """Complete train and one or two held-out splits to train, val and test (see the module's docstring)."""
    if set(held_out) == {"val", "test"}:
        return ImageDataset({"train": train, **held_out}, class_names)
    (test,) = held_out.values()
    parts = stratified_split(train.labels, VAL_OF_TRAIN, split_seed)
    return ImageDataset(
        {"train": train.take(parts["train"]), "val": train.take(parts["val"]), "test": test}, class_names
    )


def assets(root: Path) -> list[Asset]:
    """The folder itself: it can only be supplied by hand."""
    return [Asset("folder of images", "--data.root", (root,))]


REGISTERED = {"folder": DatasetSpec(assets, load, "the images' own")}
