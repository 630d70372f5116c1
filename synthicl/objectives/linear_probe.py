r"""The gradient of a linear probe in closed form.

With logits z W^T + b, P their softmax and Y the one-hot labels, the mean cross-entropy over N rows has

    R = (P - Y) / N,    grad_W = R^T z,    grad_b = sum_n R_n.

Differentiating this expression with respect to z is a first derivative: nothing is differentiated twice, as it is when
autograd makes the inner gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

AT_ONCE = 2**25  # numbers, for each of a few tensors of heads x rows x classes: 128 MiB in float32


def probe_gradient(
    z: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    row_weight: Tensor | None = None,
    soft_labels: Tensor | None = None,
    at_once: int = AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """Gradient of the cross-entropy of one or several linear probes with respect to their weight and bias.

    Args:
        z: embeddings (N, D).
        y: class indices (N,).
        weight: (*, C, D); leading dimensions are independent heads.
        bias: (*, C).
        row_weight: (N,), weight of each row in the mean, summing to 1; None weighs all rows by 1 / N.
        soft_labels: (N, C), in place of the one-hot ones.
        at_once: numbers of heads x rows x classes above which the sum is taken head by head and in blocks of rows, none
            of which is kept: the backward pass computes them again.

    Returns:
        grad_weight (*, C, D) and grad_bias (*, C), differentiable with respect to ``z`` and ``soft_labels``.
    """
    if row_weight is None:
        row_weight = z.new_full((len(z),), 1 / len(z))
    if bias.numel() * len(z) <= at_once:
        return _sum_over_rows(z, y, weight, bias, row_weight, soft_labels)
    heads = []
    singly = weight.reshape(-1, *weight.shape[-2:]), bias.reshape(-1, bias.shape[-1])
    for head_weight, head_bias in zip(*singly, strict=True):
        grad_weight, grad_bias = torch.zeros_like(head_weight), torch.zeros_like(head_bias)
        rows = max(1, at_once // len(head_bias))
        for part in (slice(start, start + rows) for start in range(0, len(z), rows)):
            labels = None if soft_labels is None else soft_labels[part]
            block = z[part], y[part], head_weight, head_bias, row_weight[part], labels
            of_weight, of_bias = checkpoint(_sum_over_rows, *block, use_reentrant=False, preserve_rng_state=False)
            grad_weight, grad_bias = grad_weight + of_weight, grad_bias + of_bias
        heads.append((grad_weight, grad_bias))
    grad_weights, grad_biases = (torch.stack(parts) for parts in zip(*heads, strict=True))
    return grad_weights.view_as(weight), grad_biases.view_as(bias)


def _sum_over_rows(
    z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, row_weight: Tensor, soft_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    probabilities = (z @ weight.mT + bias[..., None, :]).softmax(-1)  # (*, N, C)
    labels = one_hot(y, weight.shape[-2]).to(z.dtype) if soft_labels is None else soft_labels
    residual = (probabilities - labels) * row_weight[:, None]
    return residual.mT @ z, residual.sum(-2)


def descend(
    z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, step_size: float | Tensor, row_weight: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Heads along full-batch gradient descent: after 0, 1, 2, ... steps, without end.

    Args:
        z: embeddings (N, D).
        y: class indices (N,).
        weight: where it starts, (*, C, D); leading dimensions are independent heads.
        bias: likewise, (*, C).
        step_size: what the gradient is multiplied by.
        row_weight: (N,), see `probe_gradient`.

    Yields:
        Weight (*, C, D) and bias (*, C).
    """
    while True:
        yield weight, bias
        grad_weight, grad_bias = probe_gradient(z, y, weight, bias, row_weight)
        weight, bias = weight - step_size * grad_weight, bias - step_size * grad_bias


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """Class indices (N,) as (N, C), bool; torch's looks at the values of ``y``, which may wait for its device."""
    return y[:, None] == torch.arange(num_classes, device=y.device)


def class_balanced_weight(y: Tensor, num_classes: int) -> Tensor:
    """Row weights (N,) that sum to 1 and give every class that occurs in ``y`` (N,) the same total weight."""
    ones = torch.ones(len(y), device=y.device)
    counts = ones.new_zeros(num_classes).index_add_(0, y, ones)  # bincount would wait for the device
    return 1 / (counts[y] * (counts > 0).sum())
