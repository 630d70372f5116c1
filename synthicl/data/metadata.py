"""Labels beside images: ``metadata.csv`` and ``metadata.jsonl``, as in Hugging Face's imagefolder.

https://huggingface.co/docs/datasets/image_dataset: one row for each image, ``file_name`` relative to the metadata file
and ``label``. A column ``group`` (a shop, a hospital, a background) says by what results are to be told apart. One file
lies at the root of a dataset, or one in each of its splits. Other columns are ignored, and so are images that no row
names.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from synthicl.core.errors import UserError
from synthicl.core.files import FILE, kind_of, safe_folder_name, stays_inside
from synthicl.core.text import first_collision, printable
from synthicl.data.images import EXTENSIONS, LabelledImages

FILES = ("metadata.csv", "metadata.jsonl")


class Row(NamedTuple):
    """An image, its label, the line that says so, and its group, where there is such a column."""

    image: Path
    label: str
    line: str
    group: str | None = None


def metadata_files(root: Path, splits: Sequence[str]) -> list[Path]:
    """The metadata file of ``root``, or those of its splits; none where labels are the names of subfolders.

    Raises:
        UserError: there is more than one for an image, or only some of the splits have one.
    """
    of_root, of_splits = _metadata_file(root), {split: _metadata_file(root / split) for split in splits}
    found = [path for path in of_splits.values() if path]
    if of_root and found:
        raise UserError(f"--data.root: {of_root} lies above {found[0]}. Keep one file, or one in each split.")
    if lacking := [split for split, path in of_splits.items() if path is None] if found else []:
        raise UserError(f"--data.root: {found[0]} labels one split, and {root / lacking[0]} has no such file. Add it.")
    return [of_root] if of_root else found


def _metadata_file(folder: Path) -> Path | None:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"--data.root: {found[0]} lies beside {found[1].name}. Keep one of them.")
    return found[0] if found else None


def labelled_by(
    files: Sequence[Path], root: Path, splits: Sequence[str]
) -> tuple[dict[str, LabelledImages], list[str]]:
    """List the images of metadata files, in alphabetical order; nothing is opened.

    Args:
        files: what `metadata_files` found.
        root: of the dataset.
        splits: names of its split folders; where there are none, everything is ``train``.

    Returns:
        The images of each split, and the names of their classes: the labels of ``train``, sorted.

    Raises:
        UserError: a row of another form, or one that names no image, or a label that is not in train, or groups that
            tell nothing apart; the message names file and line.
    """
    first: dict[Path, str] = {}
    rows: dict[str, list[Row]] = {split: [] for split in splits or ["train"]}
    for row in (row for path in files for row in read_metadata(path)):
        before, shown = first.setdefault(row.image, row.line), printable(row.image)
        if before != row.line:
            raise UserError(f"--data.root: {row.line}: {shown} was named before, in {before}. Remove one.")
        split = row.image.relative_to(root).parts[0] if splits else "train"
        if split not in rows:
            raise UserError(f"--data.root: {row.line}: {shown} lies in none of {', '.join(splits)}. Move it there.")
        rows[split].append(row)
    check_groups([row for found in rows.values() for row in found])
    label_of = {name: label for label, name in enumerate(sorted({row.label for row in rows["train"]}))}
    images = {}
    for split, found in rows.items():
        if unknown := next((row for row in found if row.label not in label_of), None):
            raise UserError(
                f"--data.root: {unknown.line}: label {unknown.label!r} has no images in train. Add some, or remove it."
            )
        found.sort(key=lambda row: row.image)
        labels = np.array([label_of[row.label] for row in found], dtype=np.int64)
        groups = np.array([row.group for row in found], dtype=object) if found and found[0].group is not None else None
        images[split] = LabelledImages([row.image for row in found], labels, groups)
    return images, [safe_folder_name(name) for name in label_of]


def check_groups(rows: Sequence[Row]) -> None:
    """Check that all rows have a group, or none has, and that there are several, which can be told apart.

    Raises:
        UserError: the message names the lines, or the groups.
    """
    without, having = ([row for row in rows if (row.group is None) == lacks] for lacks in (True, False))
    if without and having:
        raise UserError(
            f"--data.root: {without[0].line}: no group, and {having[0].line} has one. Give every image a group, or "
            "remove the column."
        )
    names = sorted({row.group for row in having if row.group is not None})
    if len(names) == 1:
        raise UserError(
            f"--data.root: {having[0].line}: {names[0]!a:.80} is the only group. Name two at least, or remove the "
            "column."
        )
    if pair := first_collision(names):
        raise UserError(f"--data.root: two groups look the same, {pair[0]!a} and {pair[1]!a}. Rename one.")


def read_metadata(path: Path) -> Iterator[Row]:
    """Read a metadata file row by row.

    Raises:
        UserError: a row lacks an image or a label, or its image is missing, none by its name, or outside of the folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data.root: {path} cannot be read ({error}). Save it as UTF-8.") from error
    for number, cells in (_csv_rows if path.suffix == ".csv" else _json_rows)(text, path):
        line = f"{path}, line {number}"
        name, label = (_cell(cells, column, line) for column in ("file_name", "label"))
        shown = printable(name)
        if not stays_inside(name):
            raise UserError(f"--data.root: {line}: {shown} lies outside {path.parent}. Name files relative to it.")
        image = path.parent / PurePosixPath(name)
        if image.suffix.lower() not in EXTENSIONS:
            raise UserError(
                f"--data.root: {line}: {shown} is not an image ({', '.join(sorted(EXTENSIONS))}). Remove it."
            )
        if (kind := kind_of(image)) != FILE:
            raise UserError(f"--data.root: {line}: {printable(image)} is {kind}. Add it, or remove the line.")
        group = _cell(cells, "group", line) if "group" in cells else None
        yield Row(image, label, line, group)


def _cell(cells: dict[str, Any], column: str, line: str) -> str:
    """A cell as text: labels and groups may be whole numbers."""
    if column not in cells:
        found = ", ".join(map(repr, cells))
        raise UserError(f"--data.root: {line}: no column {column!r} (found {found}). Rename one, or remove the file.")
    value = cells[column]
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not text:
        raise UserError(f"--data.root: {line}: {column} is {value!r:.80}. Write a text or a whole number.")
    return text


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        if twice := first_collision(reader.fieldnames or [], str):
            raise csv.Error(f"two columns are called {twice[0]!r}")
        for cells in reader:
            if None in cells:
                raise csv.Error("more cells than columns")
            yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(
            f"--data.root: {path}, line {reader.reader.line_num}: not CSV ({error}). Mend quotes and commas."
        ) from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"--data.root: {path}, line {number}: not JSON ({error}). Write an object a line."
            ) from error
        if not isinstance(cells, dict):
            raise UserError(
                f"--data.root: {path}, line {number}: {printable(line.strip()[:80])} is no JSON object. "
                "Write one a line."
            )
        yield number, cells
