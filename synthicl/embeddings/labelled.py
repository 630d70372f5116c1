"""The record for embeddings with their labels, which every floor above uses, and what identifies them."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor


class LabelledEmbeddings(NamedTuple):
    """Embeddings with their labels: a split, a context, the rows of a step. Its parts are asked for by name.

    Attributes:
        z: (N, D), float32.
        y: (N,), class indices, int64.
        views: number of augmented views of each image; its rows follow each other.
        soft_labels: (N, C), rows that sum to 1, where there are any; ``y`` is their class all the same.
    """

    z: Tensor
    y: Tensor
    views: int = 1
    soft_labels: Tensor | None = None

    def at(self, indices: Tensor) -> LabelledEmbeddings:
        """The rows at some indices (n,), each of them a view of its own."""
        soft_labels = None if self.soft_labels is None else self.soft_labels[indices]
        return LabelledEmbeddings(self.z[indices], self.y[indices], soft_labels=soft_labels)

    def followed_by(self, other: LabelledEmbeddings) -> LabelledEmbeddings:
        """These rows and then others, in their precision; all of as many views, and with soft labels or without."""
        soft_labels = None
        if self.soft_labels is not None and other.soft_labels is not None:
            soft_labels = torch.cat([self.soft_labels.to(other.soft_labels), other.soft_labels])
        rows = torch.cat([self.z.to(other.z), other.z]), torch.cat([self.y, other.y])
        return LabelledEmbeddings(*rows, other.views, soft_labels)

    def cpu(self) -> LabelledEmbeddings:
        """The same in the host's memory."""
        soft_labels = None if self.soft_labels is None else self.soft_labels.cpu()
        return LabelledEmbeddings(self.z.cpu(), self.y.cpu(), self.views, soft_labels)


def fingerprint(*tensors: Tensor | None) -> str:
    """What identifies some tensors: SHA-256 of their numbers, 16 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            continue
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
