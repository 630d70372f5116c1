"""``swap_linear``: images chosen for the loss of a linear probe on the training images, by swaps.

Local search over subsets as in the swap phase of PAM (L. Kaufman and P. J. Rousseeuw, Finding Groups in Data, 1990,
chapter 2), with a probe's loss in place of distances: an image is exchanged for another of its class where that lowers
the loss, until a whole sweep of exchanges finds nothing; then it starts again from a random context. It is what
distillation competes with at equal cost, so the cost is stated: a number of evaluations of the loss, no seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from synthicl.core.randomness import keyed_generator
from synthicl.core.ridge import ridge_weights
from synthicl.coresets.centroid import centroid
from synthicl.coresets.coreset import Coreset, select
from synthicl.coresets.random import random
from synthicl.embeddings.labelled import LabelledEmbeddings

EVALUATIONS = 50_000  # fixed in advance
REGULARISATION, LOGIT_SCALE = 0.1, 10.0  # those of the ridge probe, fixed in advance


def swap_search(
    train: LabelledEmbeddings, ipc: int, seed: int, loss: Callable[[LabelledEmbeddings], float], evaluations: int
) -> Coreset:
    """Search ``ipc`` images of each class on which a probe has a small loss; the first start is ``centroid``.

    Args:
        train: clean training embeddings (N, D).
        ipc: images per class; a class with fewer gives all it has.
        seed: of the order of exchanges and of the starts after the first.
        loss: what to minimise, of context rows.
        evaluations: how often ``loss`` may be asked.
    """
    generator = keyed_generator(seed, "swap search")
    best, least = centroid(train, ipc, seed).indices, float("inf")
    start, spent = best, 0
    while spent < evaluations:
        assert start is not None and best is not None
        chosen, current, spent = start.clone(), loss(train.at(start)), spent + 1
        exchanges = (train.y[chosen][:, None] == train.y).nonzero()  # (position, image of its class)
        improved = True
        while improved and spent < evaluations:
            improved = False
            for position, image in exchanges[torch.randperm(len(exchanges), generator=generator)].tolist():
                if spent == evaluations:
                    break
                if (chosen == image).any():
                    continue
                tried = chosen.clone()
                tried[position] = image
                value, spent = loss(train.at(tried)), spent + 1
                if value < current:
                    chosen, current, improved = tried, value, True
        if current < least:
            best, least = chosen, current
        start = random(train, ipc, int(torch.randint(2**31, (), generator=generator))).indices
    assert best is not None
    return select(train, best)


def ridge_loss(train: LabelledEmbeddings) -> Callable[[LabelledEmbeddings], float]:
    """Mean cross-entropy on ``train`` of a ridge classifier, in closed form, as a function of the rows it is fitted on.

    Classes are those of ``train``, and each has a row.
    """
    classes, truth = train.y.unique(return_inverse=True)

    def loss(rows: LabelledEmbeddings) -> float:
        targets: Tensor = rows.y[:, None] == classes
        weight, bias = ridge_weights(rows.z, targets, REGULARISATION)
        return float(F.cross_entropy(LOGIT_SCALE * (train.z @ weight + bias), truth))

    return loss


def swap_linear(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Swap search under the ridge classifier with `EVALUATIONS` evaluations."""
    return swap_search(train, ipc, seed, ridge_loss(train), EVALUATIONS)


OPTIONAL = {"swap_linear": swap_linear}
