"""``predict``: classify new images with the context set of a finished run, and write a table.

Images are read, embedded and classified batch by batch, so memory does not grow with their number. One that cannot be
read gets a row that says why, and the others are classified all the same.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.doubt import Doubt
from synthicl.artefact.opened import open_set
from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, FILE, FOLDER, check_output, kind_of, write_whole
from synthicl.core.text import plain_cell, printable
from synthicl.data.images import EXTENSIONS
from synthicl.data.transforms import SquareImages
from synthicl.embeddings.embedder import ImageEmbedder, embed_squares

OUTPUT = Path("predictions.csv")  # in the current directory: a run's folder is a finished artefact
READERS = 4  # threads that decode images; each holds one at its full size
SHOWN = 3  # unreadable images that are named at the end


def predict(
    context: Path | str,
    images: Path,
    output: Path | None = None,
    backbone_weights: str | None = None,
    model_path: str | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    coverage: float | None = None,
    reject: float | None = None,
) -> Path:
    """Classify images and write one CSV row for each, in the order in which they are found.

    The columns are ``path`` (below ``images``, or as the list has it), ``prediction``, ``error`` (empty, or why the
    image could not be read; then the prediction and the probabilities are empty), and the probability of each class
    under its name, at the temperature that val gave the context set, if it has one. With ``coverage`` a column ``set``
    comes before the probabilities, with names of classes as in ``{3/8}``, the most probable first; a class name has no
    slash. With ``reject`` there are ``novel``, yes or no, and ``novelty``, the score.

    Where a spreadsheet would take a cell for a formula, as it begins with ``=``, ``+``, ``-`` or ``@``, a path gets
    ``./`` in front, which names the same file, and a class an apostrophe. Every image is treated as a real one, resized
    and cropped, synthetic images of the run included.

    Args:
        context: folder of a finished run, or of a context set; or the id of one on the Hugging Face Hub, a text.
        images: a folder, searched with its subfolders; an image; or a text file with one path per line, relative ones
            below the folder of that file.
        output: the CSV; None for ``predictions.csv`` in the current directory. It is written whole or not at all.
        backbone_weights: a local weights file; None for the one the run was made with, the bundled or downloaded one.
        model_path: a TabICL checkpoint file; None for the one the run was made with.
        batch_size: images that are held, embedded and classified at once.
        device: where backbone and TabICL run.
        coverage: probability with which a set holds the true class of an image like those of val, between 0 and 1; see
            `synthicl.probes.conformal`.
        reject: share of the images like those of val that is not marked as novel, between 0 and 1; see
            `synthicl.probes.novelty`.

    Returns:
        Path of the CSV.

    Raises:
        UserError: no images, none that can be read, no context set, other weights than the run's, a missing file, an
            output that is one of the files that are read, or a coverage or rejection of a set without a calibration.
    """
    output = OUTPUT if output is None else output
    if batch_size < 1:
        raise UserError(f"--batch_size={batch_size}: must be at least 1.")
    doubt = Doubt(coverage, reject)
    check_output(output, "--output", OUTPUT)
    found = find_images(images)
    opened = open_set(context, backbone_weights, model_path, device)
    classifier, embedder, calibration = opened.classifier, opened.embedder, opened.context_set.calibration
    doubt.check(calibration, opened.folder)
    check_output(output, "--output", OUTPUT, [*(path for _, path in found), images, *opened.files])
    squares = embedder.squares([path for _, path in found])
    batches = [range(start, min(start + batch_size, len(found))) for start in range(0, len(found), batch_size)]
    unreadable: list[str] = []

    def write(path: Path) -> None:
        # A file name on disk need not be UTF-8; its bytes are written as they are.
        opened = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        with opened as file, ThreadPoolExecutor(READERS) as readers:
            table = csv.writer(file)
            table.writerow(["path", "prediction", "error", *doubt.columns, *map(plain_cell, classifier.classes_)])
            for batch in track(batches, f"Classifying {len(found)} images", transient=True):
                ready = list(readers.map(lambda index: read_square(squares, index), batch))
                unreadable.extend(reason for reason in ready if isinstance(reason, str))
                rows = zip(batch, _rows(classifier, embedder, ready, doubt), strict=True)
                table.writerows([_path_cell(found[index][0]), *row] for index, row in rows)
        if len(unreadable) == len(found):
            raise UserError(f"{images}: no image could be read, of {len(found)}. The first: {unreadable[0]}")

    write_whole(output, write)
    print(f"{len(found) - len(unreadable)} of {len(found)} images classified: {printable(output)}", flush=True)
    if calibration:
        print(*doubt.explained(calibration), sep="\n", flush=True)
    if unreadable:
        reasons = map(printable, unreadable[:SHOWN])
        print(f"{len(unreadable)} could not be read (column error), for example", *reasons, sep="\n  ", flush=True)
    return output


def find_images(images: Path) -> list[tuple[str, Path]]:
    """The images to classify, as they are called in the table, and where they lie.

    Raises:
        UserError: there are none, or the file is no list.
    """
    suffixes = ", ".join(sorted(EXTENSIONS))
    kind = kind_of(images)
    if kind == FOLDER:
        paths = [path for path in sorted(images.rglob("*")) if _is_visible_image(path.relative_to(images))]
        found = [(str(path), path) for path in paths if kind_of(path) != FOLDER]
        if not found:
            raise UserError(f"{images}: no images there ({suffixes}). Name a folder that holds some.")
        return found
    if kind != FILE:
        what = "no such file or folder" if kind == ABSENT else f"is {kind}"
        raise UserError(f"{images}: {what}. Name a folder of images, an image, or a list of paths.")
    if images.suffix.lower() in EXTENSIONS:
        return [(str(images), images)]
    try:
        lines = images.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{images}: neither an image ({suffixes}) nor a text file with one path per line ({error}). Name another."
        ) from error
    names = [line.removesuffix("\r") for line in lines]
    found = [(name, images.parent / name) for name in names if name.strip()]
    if not found:
        raise UserError(f"{images}: no images listed there. Write one path per line.")
    return found


def _is_visible_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def read_square(squares: SquareImages, index: int) -> Tensor | str:
    """An image (3, crop, crop), uint8, or why it could not be read."""
    try:
        return squares[index]
    except UserError as error:
        return str(error)
    except Exception as error:  # Pillow's plugins state no list of what they raise on damaged files
        return f"not a readable image ({type(error).__name__}: {error})"


def _path_cell(path: str) -> str:
    """A path that is no formula and still leads to its file."""
    return path if plain_cell(path) == path else f"./{path}"


def _rows(
    classifier: InContextClassifier, embedder: ImageEmbedder, read: list[Tensor | str], doubt: Doubt
) -> Iterator[list[Any]]:
    """Prediction, error, what was asked of doubt, and probabilities of each image of a batch, as cells."""
    squares = [square for square in read if isinstance(square, Tensor)]
    probabilities = np.empty((0, len(classifier.classes_)), dtype=np.float32)
    doubts: list[list[Any]] = []
    if squares:
        z = embed_squares(embedder.backbone, torch.stack(squares))
        probabilities = classifier.predict_proba(z.numpy())
        doubts = doubt.cells(classifier, z, probabilities)
    rows = iter(zip(probabilities, doubts, strict=True))
    for square in read:
        if isinstance(square, str):
            yield ["", plain_cell(square), *("" for _ in [*doubt.columns, *classifier.classes_])]
        else:
            row, doubted = next(rows)
            yield [plain_cell(classifier.classes_[row.argmax()]), "", *doubted, *row]
