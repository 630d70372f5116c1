"""What a builder returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Selection(NamedTuple):
    """Context rows.

    Attributes:
        z: (n, D).
        y: (n,), class indices.
        indices: (n,), which training images the rows are; None if they are vectors without an image.
    """

    z: Tensor
    y: Tensor
    indices: Tensor | None


def select(z: Tensor, y: Tensor, indices: Tensor) -> Selection:
    """The training rows at ``indices`` (n,)."""
    return Selection(z[indices], y[indices], indices)
