r"""The gradient of a linear probe in closed form.

With logits z W^T + b, P their softmax and Y the one-hot labels, the mean cross-entropy over N rows has

    R = (P - Y) / N,    grad_W = R^T z,    grad_b = sum_n R_n.

Differentiating this expression with respect to z is a first derivative: nothing is differentiated twice, as it is when
autograd makes the inner gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def probe_gradient(
    z: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    row_weight: Tensor | None = None,
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the cross-entropy of one or several linear probes with respect to their weight and bias.

    Args:
        z: embeddings (N, D).
        y: class indices (N,).
        weight: (*, C, D); leading dimensions are independent heads.
        bias: (*, C).
        row_weight: (N,), weight of each row in the mean, summing to 1; None weighs all rows by 1 / N.
        targets: soft labels (N, C) in place of the one-hot ones.

    Returns:
        grad_weight (*, C, D) and grad_bias (*, C), differentiable with respect to ``z`` and ``targets``.
    """
    probabilities = (z @ weight.mT + bias[..., None, :]).softmax(-1)  # (*, N, C)
    labels = F.one_hot(y, weight.shape[-2]).to(probabilities) if targets is None else targets
    residual = probabilities - labels
    residual = residual / len(z) if row_weight is None else residual * row_weight[:, None]
    return residual.mT @ z, residual.sum(-2)


def class_balanced_weight(y: Tensor, num_classes: int) -> Tensor:
    """Row weights (N,) that sum to 1 and give every class that occurs in ``y`` (N,) the same total weight."""
    counts = torch.bincount(y, minlength=num_classes)
    return 1 / (counts[y] * (counts > 0).sum())
