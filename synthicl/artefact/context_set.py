"""The artefact: a labelled context set in a folder that stands on its own.

``context.safetensors`` holds images, labels, embeddings and the statistics of real data that the preprocessing needs;
``images/<class name>/`` one PNG per image, valid for ``torchvision.datasets.ImageFolder``; ``grid.png`` a picture of
all. With its card (`synthicl.artefact.card`) the folder is a dataset for ``datasets.load_dataset``. Nothing in it is a
pickle.

What the file may hold is said in `synthicl.core.context_header` and `synthicl.artefact.schema`; both are checked when
it is written and when it is read, and so is its checksum when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from synthicl.artefact.picture import image_grid
from synthicl.artefact.schema import check_tensors, contents
from synthicl.core.context_header import (
    FORMAT,
    NAME,
    MisfitError,
    check_class_names,
    check_metadata,
    checksum,
    context_file,
    read_header,
    refused,
)
from synthicl.core.errors import UserError
from synthicl.core.files import disk_error, write_whole
from synthicl.core.hub import local_folder
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.calibrated import Calibration
from synthicl.probes.novelty import Novelty
from synthicl.tabicl.preprocessing import Preprocessing, check_members

BEST = "best_on_val"  # folder, beside the last state of the schedule, of the state that val chose


@dataclass
class ContextSet:
    """Labelled vectors for an in-context learner, and the images they come from.

    Attributes:
        embeddings: (n, D), float32: the clean embeddings of the images as their PNGs hold them.
        labels: (n,), int64, class indices.
        class_names: name of each class index.
        preprocessing: what TabICL is to be given, with the statistics it carries.
        images: (n, 3, S, S), uint8, or None for a set of bare vectors.
        soft_labels: (n, C), learnt with the images, or None.
        metadata: what identifies the set: dataset, backbone, objective, seed, versions, ... JSON values only.
        calibration: what val says about how far its predictions can be trusted, or None.
    """

    embeddings: Tensor
    labels: Tensor
    class_names: list[str]
    preprocessing: Preprocessing
    images: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    soft_labels: Tensor | None = None
    calibration: Calibration | None = None

    @property
    def rows(self) -> LabelledEmbeddings:
        """What a probe is fitted on."""
        return LabelledEmbeddings(self.embeddings, self.labels, soft_labels=self.soft_labels)

    def save(self, folder: Path | str) -> None:
        """Write the set into ``folder``; each file is written whole or not at all.

        Raises:
            UserError: the set is not sound (see `synthicl.artefact.schema`), a class name cannot be a folder's name, or
                the disk is full.
        """
        folder = Path(folder)
        every = {
            "embeddings": self.embeddings,
            "labels": self.labels,
            "images": self.images,
            "soft_labels": self.soft_labels,
            "preprocessing.mean": self.preprocessing.mean,
            "preprocessing.projection": self.preprocessing.projection,
            **_calibration_tensors(self.calibration),
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in every.items() if tensor is not None}
        name, members = self.preprocessing.name, self.preprocessing.n_estimators
        try:
            check_class_names(self.class_names)
            check_metadata(self.metadata)
            check_tensors(self.class_names, name, tensors)
            check_members(members, "n_estimators")
        except MisfitError as error:  # it would not be read again
            raise UserError(f"{folder}: the context set cannot be written: {error}.") from error
        written = {
            "format": f"{NAME} {FORMAT}",
            "class_names": json.dumps(self.class_names),
            "preprocessing": json.dumps({"name": name, "n_estimators": int(members)}),
            "metadata": json.dumps(self.metadata),
        }
        written["checksum"] = checksum(written, contents(tensors))
        write_whole(folder / CONTEXT_FILE, lambda path: path.write_bytes(save(tensors, written)))
        if self.images is None:
            return
        number = dict.fromkeys(self.class_names, 0)
        self._make_folders(folder / "images")
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            name = self.class_names[label]
            _save_png(image, folder / "images" / name / f"{number[name]:03d}.png")
            number[name] += 1
        titles = [self.class_names[label] for label in self.labels.tolist()]
        _save_png(image_grid(self.images, titles), folder / "grid.png")

    def _make_folders(self, images: Path) -> None:
        """Make a folder for each class.

        Raises:
            UserError: two are one, on a file system that does not tell upper from lower case, or the disk is full.
        """
        made: dict[tuple[int, int], str] = {}
        for name in self.class_names:
            try:
                (images / name).mkdir(parents=True, exist_ok=True)
                status = (images / name).stat()
            except OSError as error:
                raise disk_error(images / name, error) from error
            if (other := made.setdefault((status.st_dev, status.st_ino), name)) != name:
                raise UserError(f"{images}: classes {other!r} and {name!r} are one folder here. Rename one.")

    @classmethod
    def load(cls, folder: Path | str) -> ContextSet:
        """Read a set that `save` wrote.

        Args:
            folder: that holds it; or the id of a dataset on the Hugging Face Hub, ``user/name``, from where its
                ``context.safetensors`` is fetched. A folder of that name wins, see `synthicl.core.hub.is_on_hub`.

        Raises:
            UserError: there is none, or the file is damaged, inconsistent, or of another format.
        """
        folder = local_folder(folder)
        header = read_header(folder)
        path = context_file(folder)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            check_tensors(header.class_names, header.preprocessing, tensors)
            check_members(header.n_estimators, "n_estimators")
            if header.written["checksum"] != checksum(header.written, contents(tensors)):
                raise MisfitError("its content is not what was written: the checksum differs")
        except Exception as error:  # safetensors states no list of what it raises
            raise refused(path, error) from error
        return cls(
            embeddings=tensors["embeddings"],
            labels=tensors["labels"],
            class_names=header.class_names,
            preprocessing=Preprocessing(
                header.preprocessing,
                header.n_estimators,
                tensors.get("preprocessing.mean"),
                tensors.get("preprocessing.projection"),
            ),
            images=tensors.get("images"),
            metadata=header.metadata,
            soft_labels=tensors.get("soft_labels"),
            calibration=_calibration(tensors),
        )


def _calibration_tensors(calibration: Calibration | None) -> dict[str, Tensor]:
    """A calibration as tensors by name; none where there is none."""
    if calibration is None:
        return {}
    return {
        "calibration.temperature": torch.tensor([calibration.temperature]),
        "calibration.nonconformity": calibration.nonconformity,
        "calibration.novelties": calibration.novelties,
        "novelty.mean": calibration.novelty.mean,
        "novelty.directions": calibration.novelty.directions,
    }


def _calibration(tensors: Mapping[str, Tensor]) -> Calibration | None:
    """What `_calibration_tensors` took apart."""
    if "calibration.temperature" not in tensors:
        return None
    return Calibration(
        float(tensors["calibration.temperature"]),
        tensors["calibration.nonconformity"],
        Novelty(tensors["novelty.mean"], tensors["novelty.directions"]),
        tensors["calibration.novelties"],
    )


def _save_png(image: Tensor, path: Path) -> None:
    """Write an image (3, H, W), uint8, as PNG."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    write_whole(path, lambda target: picture.save(target, format="PNG"))
