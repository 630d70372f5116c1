"""What a builder returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-12  # relative difference, in float64, below which scores count as equal


class Coreset(NamedTuple):
    """Context rows.

    Attributes:
        z: (n, D).
        y: (n,), class indices.
        indices: (n,), which training images the rows are; None if they are vectors without an image.
    """

    z: Tensor
    y: Tensor
    indices: Tensor | None


def select(z: Tensor, y: Tensor, indices: Tensor) -> Coreset:
    """The training rows at ``indices`` (n,)."""
    return Coreset(z[indices], y[indices], indices)


def select_by_class(z: Tensor, y: Tensor, choose: Callable[[Tensor], Tensor]) -> Coreset:
    """Select within each class, one class after the other.

    Args:
        z: (N, D).
        y: (N,).
        choose: the embeddings of a class (m, D), float64, -> positions among them (k,).
    """
    chosen = []
    for label in y.unique():
        members = (y == label).nonzero().flatten()
        chosen.append(members[choose(z[members].double())])
    return select(z, y, torch.cat(chosen))


def best_next(scores: Tensor, chosen: list[int]) -> int:
    """The position of the greatest score among those not chosen yet; of scores equal up to rounding, the first.

    Two rows of a class are equally near to their mean, and the last two that facility location leaves uncovered gain
    the same: rounding must not decide between them.

    Args:
        scores: (m,), float64.
        chosen: positions that are taken; fewer than m.
    """
    free = scores.index_fill(0, torch.tensor(chosen, dtype=torch.long), -torch.inf)
    return int((free >= free.max() - ROUNDING * scores.abs().max()).int().argmax())
