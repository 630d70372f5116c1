"""What a builder returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from synthicl.embeddings.labelled import LabelledEmbeddings

ROUNDING = 1e-12  # relative difference, in float64, below which scores count as equal


class Coreset(NamedTuple):
    """Context rows.

    Attributes:
        rows: n of them.
        indices: (n,), which training images the rows are; None if they are vectors without an image.
    """

    rows: LabelledEmbeddings
    indices: Tensor | None


def select(train: LabelledEmbeddings, indices: Tensor) -> Coreset:
    """The training rows at ``indices`` (n,)."""
    return Coreset(train.at(indices), indices)


def select_by_class(train: LabelledEmbeddings, choose: Callable[[Tensor], Tensor]) -> Coreset:
    """Select within each class, one class after the other.

    Args:
        train: (N, D).
        choose: the embeddings of a class (m, D), float64, -> positions among them (k,).
    """
    chosen = []
    for label in train.y.unique():
        members = (train.y == label).nonzero().flatten()
        chosen.append(members[choose(train.z[members].double())])
    return select(train, torch.cat(chosen))


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
