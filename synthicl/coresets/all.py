"""``all``: every training image: the context that a context set is to replace."""

from __future__ import annotations

import torch

from synthicl.coresets.coreset import Coreset, select
from synthicl.embeddings.labelled import LabelledEmbeddings


def everything(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Select all rows; ``ipc`` and ``seed`` play no part."""
    return select(train, torch.arange(len(train.y)))


REGISTERED = {"all": everything}
