"""The artefact: a labelled context set in a folder that stands on its own.

``context.safetensors`` holds images, labels, embeddings and the statistics of real data that the preprocessing needs;
``images/<class name>/`` one PNG per image, valid for ``torchvision.datasets.ImageFolder`` and
``datasets.load_dataset("imagefolder", ...)``; ``grid.png`` a picture of all. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from synthicl.artefact.picture import image_grid
from synthicl.core.errors import UserError
from synthicl.core.files import safe_folder_name, write_whole
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.tabicl.preprocessing import Preprocessing

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
    """

    embeddings: Tensor
    labels: Tensor
    class_names: list[str]
    preprocessing: Preprocessing
    images: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    soft_labels: Tensor | None = None

    @property
    def rows(self) -> LabelledEmbeddings:
        """What a probe is fitted on."""
        return LabelledEmbeddings(self.embeddings, self.labels, soft_labels=self.soft_labels)

    def save(self, folder: Path | str) -> None:
        """Write the set into ``folder``; each file is written whole or not at all.

        Raises:
            UserError: a class name cannot be a folder's name, or the disk is full.
        """
        folder = Path(folder)
        names = [safe_folder_name(name) for name in self.class_names]
        tensors = {"embeddings": self.embeddings, "labels": self.labels}
        for name, tensor in (("images", self.images), ("soft_labels", self.soft_labels)):
            if tensor is not None:
                tensors[name] = tensor
        if self.preprocessing.mean is not None and self.preprocessing.projection is not None:
            tensors |= {
                "preprocessing.mean": self.preprocessing.mean,
                "preprocessing.projection": self.preprocessing.projection,
            }
        header = {
            "format": "synthicl context set 1",
            "class_names": json.dumps(self.class_names),
            "preprocessing": json.dumps(
                {"name": self.preprocessing.name, "n_estimators": self.preprocessing.n_estimators}
            ),
            "metadata": json.dumps(self.metadata),
        }
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(folder / CONTEXT_FILE, lambda path: path.write_bytes(save(contiguous, header)))
        if self.images is None:
            return
        number = dict.fromkeys(names, 0)
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            name = names[label]
            _save_png(image, folder / "images" / name / f"{number[name]:03d}.png")
            number[name] += 1
        titles = [self.class_names[label] for label in self.labels.tolist()]
        _save_png(image_grid(self.images, titles), folder / "grid.png")

    @classmethod
    def load(cls, folder: Path | str) -> ContextSet:
        """Read a set that `save` wrote.

        Raises:
            UserError: there is none, or the file is damaged or inconsistent.
        """
        path = Path(folder) / CONTEXT_FILE
        if not path.is_file():
            raise UserError(
                f"{folder}: no context set there (looked for {CONTEXT_FILE}). Name the folder of a finished run."
            )
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            class_names = [safe_folder_name(str(name)) for name in json.loads(header["class_names"])]
            preprocessing = Preprocessing(
                **json.loads(header["preprocessing"]),
                mean=tensors.get("preprocessing.mean"),
                projection=tensors.get("preprocessing.projection"),
            )
            context = cls(
                tensors["embeddings"],
                tensors["labels"],
                class_names,
                preprocessing,
                tensors.get("images"),
                json.loads(header["metadata"]),
                tensors.get("soft_labels"),
            )
            n = len(context.labels)
            optional = [len(tensor) for tensor in (context.images, context.soft_labels) if tensor is not None]
            lengths = {len(context.embeddings), n, *optional}
            consistent = lengths == {n} and set(context.labels.tolist()) <= set(range(len(class_names)))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a context set, or damaged ({error}). Run the distillation again.") from error
        if not consistent:
            raise UserError(f"{path}: rows, images, labels and class names do not belong together. Distil again.")
        return context


def _save_png(image: Tensor, path: Path) -> None:
    """Write an image (3, H, W), uint8, as PNG."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    write_whole(path, lambda target: picture.save(target, format="PNG"))


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [0, 1] to 8 bit, as a PNG holds them."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
