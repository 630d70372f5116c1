"""`groceries`: photographs of fruit, vegetables and packages, taken with a telephone in shops.

The Grocery Store Dataset: M. Klasson, C. Zhang, H. Kjellström, "A Hierarchical Grocery Store Image Dataset with Visual
and Semantic Labels", WACV 2019, https://arxiv.org/abs/1901.00711. ``groceries`` and ``groceries-hard`` are ten of its
classes each, ``groceries-81`` is all of them, ``groceries-42`` its coarse classes (42 in the paper, 43 in the files).

Its test split is the test split here. Its val split lacks a quarter of the classes, so ``val`` is a stratified fifth of
its train and val together, and ``train`` the rest.

The test photographs differ from the others, and a val of the others is classified nearly without an error: it cannot
choose settings. ``groceries-tuning`` is for that: ten further classes, whose official test split is halved into ``val``
and ``test``. No image of it is in the test split of ``groceries`` or ``groceries-hard``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synthicl.core.assets import Asset, obtain
from synthicl.core.errors import UserError
from synthicl.core.files import safe_folder_name, stays_inside
from synthicl.data.archives import SUFFIXES, unpacked
from synthicl.data.datasets import DatasetSpec, ImageDataset
from synthicl.data.images import SPLITS, LabelledImages
from synthicl.data.splits import stratified_split

EASY = (
    "Avocado",
    "Banana",
    "Brown Cap Mushroom",
    "Carrots",
    "Granny Smith",
    "Kiwi",
    "Lemon",
    "Pineapple",
    "Red Bell Pepper",
    "Watermelon",
)
HARD = (
    "Golden Delicious",
    "Granny Smith",
    "Nectarine",
    "Orange",
    "Peach",
    "Pink Lady",
    "Red Delicious",
    "Regular Tomato",
    "Royal Gala",
    "Satsumas",
)
TUNING = (
    "Asparagus",
    "Aubergine",
    "Cabbage",
    "Cucumber",
    "Ginger",
    "Leek",
    "Orange Bell Pepper",
    "Plum",
    "Pomegranate",
    "Red Beet",
)
SOURCE = "https://github.com/marcusklasson/GroceryStoreDataset/archive/refs/heads/master.zip"
ARCHIVE = "GroceryStoreDataset-master.zip"  # what GitHub calls it
ARCHIVES = re.compile(r"(GroceryStoreDataset|grocery-store).*\.(tar|tar\.gz|tgz|zip)")
WHAT = "Grocery Store Dataset"
CITATION = "Klasson, Zhang, Kjellström, WACV 2019, arXiv 1901.00711"
LICENCE = "MIT"
VAL = {"val": 0.2}  # of the official train and val together
HALF = {"val": 0.5}  # of the official test, for tuning


class GroceryClass(NamedTuple):
    """What ``classes.csv`` says about a class: its name, and that of the coarse class it belongs to."""

    fine: str
    coarse: str


Classes = Mapping[tuple[int, int], GroceryClass]
"""Classes by their id and the id of their coarse class, in this order."""


class Photograph(NamedTuple):
    """An image, its class, and the line that says so."""

    path: Path
    of: GroceryClass
    line: str


def dataset_folder(root: Path) -> Path | None:
    """The folder that ``train.txt`` lies in: in the repository below ``root``, in ``root/dataset``, or ``root``."""
    places = [*sorted(root.glob("GroceryStoreDataset*/dataset")), root / "dataset", root]
    return next((place for place in places if (place / "train.txt").is_file()), None)


def archive_of(root: Path) -> Path | None:
    """The archive that ``root`` is, or that lies in it."""
    if not root.is_dir():
        return root if root.is_file() else None
    return next((path for path in sorted(root.iterdir()) if ARCHIVES.fullmatch(path.name) and path.is_file()), None)


def assets(root: Path) -> list[Asset]:
    """The folder, or else the archive; what is missing is downloaded as an archive into ``root``."""
    asset = partial(Asset, f"{WHAT} ({CITATION}, {LICENCE} licence)", "--data.root")
    found = dataset_folder(root) or archive_of(root)
    if found is None and root.name.endswith(SUFFIXES):
        return [asset((root,))]
    return [asset((found,) if found else (root / "GroceryStoreDataset", root / ARCHIVE), SOURCE)]


def load(
    root: Path, split_seed: int, chosen: Sequence[str] | None = None, coarse: bool = False, tuning: bool = False
) -> ImageDataset:
    """Find the dataset, unpacked or not, downloaded if need be; no image is opened.

    Args:
        root: the repository, its ``dataset`` folder, an archive of either, or the folder that one of them lies in.
        split_seed: seed of ``val``.
        chosen: names of the classes; None for all.
        coarse: whether the coarse classes are the classes.
        tuning: whether ``val`` is half of the official test split, and ``test`` the other half.

    Raises:
        UserError: it is out of reach, damaged or incomplete.
    """
    (asset,) = assets(root)
    found = obtain(asset)
    folder = found if found.is_dir() else unpacked(found, f"the {WHAT}", dataset_folder)
    classes = read_classes(folder)
    names = [of.coarse if coarse else of.fine for of in classes.values()]
    class_names = list(dict.fromkeys(names) if chosen is None else chosen)
    if absent := sorted(set(class_names) - set(names)):
        raise damaged(folder / "classes.csv", f"lacks {', '.join(absent)}")
    parts = {
        split: labelled(photographs, class_names, coarse) for split, photographs in read_lists(folder, classes).items()
    }
    held_in = LabelledImages(
        [*parts["train"].images, *parts["val"].images], np.concatenate([parts["train"].labels, parts["val"].labels])
    )
    if tuning:
        halves = stratified_split(parts["test"].labels, HALF, split_seed)
        held_out = {"val": parts["test"].take(halves["val"]), "test": parts["test"].take(halves["train"])}
        return ImageDataset({"train": held_in, **held_out}, class_names)
    ours = {name: held_in.take(indices) for name, indices in stratified_split(held_in.labels, VAL, split_seed).items()}
    return ImageDataset({**ours, "test": parts["test"]}, class_names)


def read_classes(folder: Path) -> Classes:
    """Read ``classes.csv``: name, id, coarse name, coarse id, and what is not needed here.

    Raises:
        UserError: the file is missing or of another form.
    """
    path = folder / "classes.csv"
    classes = {}
    try:
        rows = list(csv.reader(lines(path)))
    except csv.Error as error:
        raise damaged(path, f"not CSV ({error})") from error
    for number, row in enumerate(rows, start=1):
        if number == 1 or not row:
            continue
        try:
            ids = int(row[1]), int(row[3])
        except (IndexError, ValueError):
            raise damaged(f"{path}, line {number}", "not 'name, class id, coarse name, coarse id'") from None
        classes[ids] = GroceryClass(*(safe_folder_name(name.replace("-", " ").strip()) for name in (row[0], row[2])))
    return dict(sorted(classes.items()))


def read_lists(folder: Path, classes: Classes) -> dict[str, list[Photograph]]:
    """Read ``train.txt``, ``val.txt`` and ``test.txt``: an image on each line. Folder names are not labels.

    Raises:
        UserError: see `read_line`, or an image is named twice.
    """
    found: dict[str, list[Photograph]] = {}
    first: dict[Path, str] = {}
    for split in SPLITS:
        found[split] = []
        for number, text in enumerate(lines(folder / f"{split}.txt"), start=1):
            if not text.strip():
                continue
            photograph = read_line(text, f"{folder / split}.txt, line {number}", folder, classes)
            before = first.setdefault(photograph.path, photograph.line)
            if before != photograph.line:
                raise damaged(photograph.line, f"{photograph.path} was named before, in {before}")
            found[split].append(photograph)
    return found


def read_line(text: str, line: str, folder: Path, classes: Classes) -> Photograph:
    """Read a line: path of the image relative to ``folder``, class id, coarse id.

    Raises:
        UserError: it is of another form, has an unknown id, or a path that leaves the folder.
    """
    match = re.fullmatch(r"\s*(.+?)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None:
        raise damaged(line, f"{text.strip()!r} is not 'path, class id, coarse id'")
    name, ids = match[1], (int(match[2]), int(match[3]))
    if ids not in classes:
        raise damaged(line, f"classes.csv has no class {ids[0]} of coarse class {ids[1]}")
    if not stays_inside(name):
        raise damaged(line, f"{name} lies outside {folder}")
    return Photograph(folder / name, classes[ids], line)


def labelled(photographs: Iterable[Photograph], class_names: Sequence[str], coarse: bool) -> LabelledImages:
    """Those of some classes.

    Raises:
        UserError: an image is missing.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    paths: list[Path] = []
    labels: list[int] = []
    for path, of, line in photographs:
        label = label_of.get(of.coarse if coarse else of.fine)
        if label is None:
            continue
        if not path.is_file():
            raise damaged(line, f"{path} is missing")
        paths.append(path)
        labels.append(label)
    return LabelledImages(paths, np.array(labels, dtype=np.int64))


def lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        UserError: it is missing or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"cannot be read ({error})") from error


def damaged(where: Path | str, what: str) -> UserError:
    """The line a user reads about files that are not as they were published."""
    return UserError(f"--data.root: {where}: {what}. Put a whole copy of the dataset in its place.")


REGISTERED = {
    "groceries": DatasetSpec(assets, partial(load, chosen=EASY), LICENCE),
    "groceries-hard": DatasetSpec(assets, partial(load, chosen=HARD), LICENCE),
    "groceries-tuning": DatasetSpec(assets, partial(load, chosen=TUNING, tuning=True), LICENCE),
    "groceries-42": DatasetSpec(assets, partial(load, coarse=True), LICENCE),
    "groceries-81": DatasetSpec(assets, load, LICENCE),
}
