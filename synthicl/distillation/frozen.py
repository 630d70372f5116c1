"""A finished run is extended: its images stay as they are, and those of further classes are optimised beside them.

The frozen images are rows of the context and of every objective, and constants: what a step costs is the new images'.
Their clean rows are those of the earlier context set. What an objective sees of them in augmented views is drawn from
views that were embedded once, as a bank of real images is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.devices import to_device
from synthicl.core.errors import UserError
from synthicl.core.randomness import keyed_generator
from synthicl.data.augmentation import Augmentation
from synthicl.data.images import LabelledImages
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint
from synthicl.objectives import Views

VIEWS = 16  # augmented views of each frozen image, or as many as a step takes; each step draws of them anew


def identity_of(found: ContextSet) -> str:
    """What identifies a context set that is extended, 16 hexadecimal digits."""
    statistics = found.preprocessing.mean, found.preprocessing.projection
    return fingerprint(found.images, found.embeddings, found.labels, found.soft_labels, *statistics)


def check_settings(found: ContextSet, own: Mapping[str, tuple[str, Any]]) -> None:
    """Check that new images can stand beside those of a context set.

    Args:
        found: the context set.
        own: what has to be as it was there: name in its metadata -> flag, and the value now.

    Raises:
        UserError: something is not, or the set has no images, or not as many of each class.
    """
    if found.images is None:
        raise UserError("--extend: this context set is of bare vectors. Name the folder of a finished run.")
    about = found.metadata | {"size": found.images.shape[-1], "soft_labels": found.soft_labels is not None}
    for name, (flag, value) in own.items():
        if name in about and about[name] != value:
            raise UserError(
                f"--{flag}={value}: the run that is extended was made with {about[name]}, which new images cannot "
                "change. Leave the flag out."
            )
    ipc, classes = own["ipc"][1], len(found.class_names)
    if found.labels.tolist() != torch.arange(classes).repeat_interleave(ipc).tolist():
        raise UserError(
            f"--extend: its rows are not {ipc} of each of its {classes} classes, one class after the other. Name the "
            "folder of a run as it was finished."
        )


def check_classes(found: ContextSet, class_names: Sequence[str]) -> None:
    """Check that a dataset begins with the classes of a context set, and has more.

    Raises:
        UserError: it does not.
    """
    before = found.class_names
    if class_names[: len(before)] != before:
        names = sorted(set(before) ^ set(class_names[: len(before)])) or "their order"
        raise UserError(
            f"--extend: the classes of its dataset are no longer its own ({names}). Name its images, as they were, "
            "with --data.root, and the new ones with --data.more."
        )
    if len(class_names) == len(before):
        raise UserError(
            f"--extend: there is no new class, all {len(before)} are in the run that is extended. Name a folder with a "
            "subfolder of another name."
        )


class FrozenImages(nn.Module):
    """Images of a context set, as constants of an optimisation; the same on every rank, and in no checkpoint.

    Args:
        found: the context set, of C_old classes.
        num_classes: C, with the new ones.

    Attributes:
        num_classes: C_old.
        images: (m, 3, S, S), uint8.
        z: clean embeddings, (m, D).
        labels: class indices, (m,).
        soft_labels: (m, C), or None; the new classes have no share.
    """

    images: Tensor
    z: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    _views: Tensor | None = None

    def __init__(self, found: ContextSet, num_classes: int) -> None:
        super().__init__()
        self.num_classes = len(found.class_names)
        soft = found.soft_labels
        tensors = {
            "images": found.images,
            "z": found.embeddings,
            "labels": found.labels,
            "soft_labels": None if soft is None else F.pad(soft, (0, num_classes - self.num_classes)),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def rows(self) -> LabelledEmbeddings:
        """The rows of the earlier context."""
        return LabelledEmbeddings(self.z, self.labels, soft_labels=self.soft_labels)

    def said(self, class_names: Sequence[str], train: LabelledImages) -> str:
        """One line about what is optimised and what stands beside it, with the images that have joined old classes."""
        new = class_names[self.num_classes :]
        shown = ", ".join(map(repr, new[:5])) + (", ..." if len(new) > 5 else "")
        further = train.parts[-1].labels if train.parts else train.labels[:0]
        joined = int((further < self.num_classes).sum())
        return (
            f"{len(self.labels)} images of {self.num_classes} classes stay as they are; those of {len(new)} new "
            f"({shown}) are optimised, with {len(train)} real training images of all {len(class_names)} classes"
            + (f", {joined} of them further ones of old classes." if joined else ".")
        )

    def embed_views(
        self, backbone: FrozenBackbone, crop_size: int, augmentation: Augmentation | None, views: int, seed: int
    ) -> None:
        """Embed augmented views, or read them from disk; a collective call.

        Args:
            backbone: on the device where it is to run.
            crop_size: resolution in pixels that it sees.
            augmentation: None where a step has no augmented views.
            views: how many of each image a step has.
            seed: of the views, and of which of them a step has.
        """
        if augmentation is None:
            return
        pixels = [image.permute(1, 2, 0).numpy() for image in self.images.cpu()]
        z = embed_views(
            backbone,
            LabelledImages(pixels, self.labels.cpu().numpy()),
            crop_size,
            augmentation=augmentation,
            image_size=self.images.shape[-1],
            views=max(VIEWS, views),
            seed=seed,
            what="images that stay as they are",
        )
        self._views, self._seed = z.transpose(0, 1).to(self.z.device), seed

    def before(self, new: Views, step: int) -> Views:
        """The rows of a step: those of frozen images, then those of new ones, by what the backbone was shown."""
        clean = None if new.clean is None else self.rows.followed_by(new.clean)
        if new.augmented is None or new.augmented is new.clean:
            return Views(clean, clean)
        return Views(clean, self._drawn(step, new.augmented.views).followed_by(new.augmented))

    def _drawn(self, step: int, number: int) -> LabelledEmbeddings:
        """So many augmented views of each image, which follow each other; drawn alike on every rank."""
        assert self._views is not None
        order = torch.randperm(self._views.shape[1], generator=keyed_generator(self._seed, "frozen views", step))
        z = self._views.index_select(1, to_device(order[:number], self._views.device))
        soft = None if self.soft_labels is None else self.soft_labels.repeat_interleave(number, 0)
        return LabelledEmbeddings(z.flatten(0, 1), self.labels.repeat_interleave(number), number, soft)
