"""Linear gradient matching (LGM).

G. Cazenavette, A. Torralba and V. Sitzmann, "Dataset Distillation for Pre-Trained Self-Supervised Vision Models",
NeurIPS 2025, https://arxiv.org/abs/2511.16674: the probe gradient on the synthetic embeddings is to point where the one
on the real embeddings points, for linear probes drawn afresh at every step.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from synthicl.core.errors import UserError, check_positive
from synthicl.core.randomness import device_generator
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.linear_probe import class_balanced_weight, probe_gradient
from synthicl.objectives.objective import Objective, View


class LinearGradientMatching(Objective):
    """Mean over random heads of 1 - cosine(real gradient, synthetic gradient), weight and bias as one vector.

    The loss is in [0, 2].

    Args:
        heads: H, number of heads drawn in each step. The reference draws one.
        head_std: standard deviation of the heads' weights; the public code has 0.01, the paper's section 3 has 1.
        logit_std: if given, heads are scaled so that the logits of the real embeddings have this standard deviation;
            it replaces ``head_std``, whose effect grows with the norm of a backbone's embeddings.
        balanced: weigh the real rows so that every class counts the same. Off in the reference; an unbalanced real
            side drags balanced synthetic images off the class means.
        head_init: ``normal`` is N(0, head_std^2) without bias; ``linear`` is torch.nn.Linear's default, uniform in
            +- 1 / sqrt(D), bias included: the paper's appendix A.1. ``head_std`` and ``logit_std`` do not apply to it.
        view: what of the images is matched: ``augmented`` views, as in the reference, or the ``clean`` image.

    Raises:
        UserError: no heads, or heads of no size.
    """

    uses_soft_labels = True

    def __init__(
        self,
        heads: int = 32,
        head_std: float = 0.01,
        logit_std: float | None = None,
        balanced: bool = True,
        head_init: Literal["normal", "linear"] = "normal",
        view: View = "augmented",
    ) -> None:
        super().__init__()
        if heads < 1:
            raise UserError(f"--model.objective: {heads} heads. At least 1 is needed.")
        check_positive("--model.objective: ", head_std=head_std, logit_std=logit_std)
        self.heads = heads
        self.head_std = head_std
        self.logit_std = logit_std
        self.balanced = balanced
        self.head_init = head_init
        self.view = view

    @override
    def forward(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        weight, bias = self.draw_heads(num_classes, real.z, generator)
        row_weight = class_balanced_weight(real.y, num_classes) if self.balanced else None
        with torch.no_grad():
            real_gradient = _flatten(*probe_gradient(real.z, real.y, weight, bias, row_weight))
        given = synthetic.z, synthetic.y, weight, bias
        gradient = _flatten(*probe_gradient(*given, soft_labels=synthetic.soft_labels))
        return (1 - torch.cosine_similarity(real_gradient, gradient, dim=-1)).mean()

    def draw_heads(self, num_classes: int, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the heads of a step: weight (H, C, D) and bias (H, C), like ``z`` in type and device."""
        shape = self.heads, num_classes, z.shape[1]
        there: dict[str, Any] = {
            "generator": device_generator(generator, z.device),
            "device": z.device,
            "dtype": z.dtype,
        }
        if self.head_init == "linear":
            weight, bias = (torch.rand(part, **there) * 2 - 1 for part in (shape, shape[:2]))
            return weight / z.shape[1] ** 0.5, bias / z.shape[1] ** 0.5
        weight = torch.randn(shape, **there)
        # The logit of a row z under a head N(0, s^2 I) has standard deviation s |z|.
        std = self.head_std if self.logit_std is None else self.logit_std / z.square().sum(1).mean().sqrt()
        return weight * std, weight.new_zeros(shape[:2])


def _flatten(grad_weight: Tensor, grad_bias: Tensor) -> Tensor:
    """Gradients (H, C, D) and (H, C) as vectors (H, C * D + C)."""
    return torch.cat([grad_weight.flatten(1), grad_bias], 1)
