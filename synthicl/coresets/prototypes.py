r"""``prototypes``: learnt vectors for nearest-prototype classification, the rival without images.

With prototypes w_j of classes c_j, and s the mean squared distance of the training rows from their mean,

    p(y | z) = sum_{j: c_j = y} exp(-beta ||z - w_j||^2 / s) / sum_j exp(-beta ||z - w_j||^2 / s),

and the mean cross-entropy on the training rows is minimised over all w_j and beta: S. Seo, M. Bode and K. Obermayer,
"Soft nearest prototype classification", IEEE Transactions on Neural Networks 14, 2003, with the likelihood of S. Seo
and K. Obermayer, "Soft learning vector quantization", Neural Computation 15, 2003. For a query, the class of the
nearest prototype is the most probable one where a class has one prototype: 1-NN on these rows is the classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.core.randomness import keyed_generator
from synthicl.coresets.coreset import Coreset
from synthicl.embeddings.labelled import LabelledEmbeddings

STEPS, LEARNING_RATE, BETA = 500, 0.01, 10.0  # of Adam, in units of sqrt(s); fixed in advance
SCATTER = 0.3  # how far towards a random image several prototypes of a class start


def starts(train: LabelledEmbeddings, ipc: int, seed: int) -> LabelledEmbeddings:
    """``ipc`` vectors for each class: its mean, and for several the mean moved a little to random images."""
    generator = keyed_generator(seed, "starts")
    rows = []
    for label in train.y.unique():
        z = train.z[train.y == label]
        drawn = z[torch.randint(len(z), (ipc,), generator=generator)]
        rows.append(z.mean(0) + SCATTER * (ipc > 1) * (drawn - z.mean(0)))
    return LabelledEmbeddings(torch.cat(rows), train.y.unique().repeat_interleave(ipc))


def prototypes(train: LabelledEmbeddings, ipc: int, seed: int) -> Coreset:
    """Learn ``ipc`` prototypes of each class with full batches; ``seed`` decides where several of a class start."""
    begun = starts(train, ipc, seed)
    centre = train.z.mean(0)
    unit = (train.z - centre).square().sum(1).mean().sqrt().clamp_min(torch.finfo(train.z.dtype).tiny)
    z, learnt = (train.z - centre) / unit, ((begun.z - centre) / unit).requires_grad_()
    log_beta = torch.tensor(BETA).log().requires_grad_()
    own = train.y[:, None] == begun.y  # (N, n)
    optimiser = torch.optim.Adam([learnt, log_beta], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        scores: Tensor = -log_beta.exp() * torch.cdist(z, learnt).square()
        loss = (scores.logsumexp(1) - scores.masked_fill(~own, -torch.inf).logsumexp(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Coreset(LabelledEmbeddings((learnt.detach() * unit + centre), begun.y), None)


OPTIONAL = {"prototypes": prototypes}
