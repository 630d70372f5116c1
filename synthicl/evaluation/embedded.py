"""Embeddings with their labels, and what identifies them."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from torch import Tensor


class Embedded(NamedTuple):
    """Clean embeddings of a split.

    Attributes:
        z: (N, D), float32, on the CPU.
        y: (N,), class indices.
    """

    z: Tensor
    y: Tensor


def fingerprint(*tensors: Tensor | None) -> str:
    """What identifies some tensors: SHA-256 of their numbers, 16 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            continue
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
