"""A step's loss and gradients, and the learning rate that belongs to it: what the Distiller's hooks call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from synthicl.core.distributed import gather_rows
from synthicl.distillation.grad_cache import backpropagate_in_chunks
from synthicl.distillation.images import SyntheticImages
from synthicl.distillation.views import Viewer
from synthicl.objectives import Objective, Views

Schedule = Literal["constant", "cosine"]


def backpropagate(
    images: SyntheticImages,
    viewer: Viewer,
    objective: Objective,
    real: Views,
    step: int,
    generator: Callable[[], torch.Generator],
    backward: Callable[[Tensor], None],
) -> Tensor:
    """Compute the loss of a step and its gradients: of this rank's images, and of what the objective learns.

    Args:
        images: what is optimised.
        viewer: shows them to the backbone.
        objective: what is minimised.
        real: real embeddings, by what the backbone was shown.
        step: its number, which decides how images are augmented.
        generator: makes the objective's generator, anew at each call and the same on every rank.
        backward: back-propagates a scalar, as Lightning's ``manual_backward``.

    Returns:
        The loss, a scalar, the same on every rank.
    """
    # Like the loss, what the objective learns and the soft labels of all images are the same on every rank.
    learnt, soft_labels = objective.learnt_parameters(), images.gather_soft_labels()
    leaves = learnt if soft_labels is None else [*learnt, soft_labels.requires_grad_()]

    def loss_of(z: Tensor) -> Tensor:
        reference = Views(*(part and part._replace(z=part.z.to(z.dtype)) for part in real))
        synthetic = viewer.by_view(z, images.labels, soft_labels)
        if images.frozen is not None:
            synthetic = images.frozen.before(synthetic, step)
        return objective.loss(synthetic, reference, images.num_classes, generator())

    loss, gradients = backpropagate_in_chunks(
        viewer.embedder(images, step),
        rows=len(images.mine) * viewer.rows_of_image,
        chunk_size=viewer.at_once,
        gather=lambda z: gather_rows(z, images.total, viewer.rows_of_image),
        first_row=images.mine.start * viewer.rows_of_image,
        loss_of=loss_of,
        backward=backward,
        leaves=leaves,
    )
    mine = images.soft_labels()
    if mine is not None:
        backward((mine * gradients.pop()[images.mine.start : images.mine.stop]).sum())
    for parameter, gradient in zip(learnt, gradients, strict=True):
        backward((parameter * gradient).sum())
    return loss


def learning_rate(lr: float, schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0, of so many; ``cosine`` falls from ``lr`` to zero."""
    return lr if schedule == "constant" else lr * 0.5 * (1 + math.cos(math.pi * step / steps))
