"""Ridge classification in the loop.

A ridge classifier is fitted in closed form on the synthetic embeddings, and the cross-entropy of its scaled scores on
real embeddings is back-propagated through the solve: the synthetic rows come to span the decision boundary instead of
sitting on the class means. Kernel ridge regression inside distillation: T. Nguyen, Z. Chen and J. Lee, "Dataset
Meta-Learning from Kernel Ridge-Regression", ICLR 2021, https://arxiv.org/abs/2011.00050; cross-entropy outside, on
frozen embeddings: CLP-DD, https://arxiv.org/abs/2605.07194.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from synthicl.core.errors import check_positive
from synthicl.core.ridge import ridge_weights
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.linear_probe import class_balanced_weight, one_hot
from synthicl.objectives.objective import Objective, View


class Ridge(Objective):
    """Mean cross-entropy, in nats, of a ridge classifier fitted on the synthetic rows; classes count the same.

    Regularisation and scale of the scores are learnt as their logarithms, with the images' learning rate.

    Args:
        regularisation: lambda at the start, relative to the rows' spread; see `ridge_weights`.
        logit_scale: what scores are multiplied by before the softmax, at the start.
        learnt: whether both are learnt; False keeps them.
        view: what the classifier is fitted on; the ``clean`` row is the one that is exported.
    """

    uses_soft_labels = True

    def __init__(
        self, regularisation: float = 1.0, logit_scale: float = 8.0, learnt: bool = True, view: View = "clean"
    ) -> None:
        check_positive("--model.objective: ", regularisation=regularisation, logit_scale=logit_scale)
        super().__init__()
        self.regularisation = regularisation
        self.logit_scale = logit_scale
        self.learnt = learnt
        self.view = view
        self.log_regularisation = nn.Parameter(torch.tensor(math.log(regularisation)), requires_grad=learnt)
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)), requires_grad=learnt)

    @override
    def forward(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        targets = synthetic.soft_labels
        if targets is None:
            targets = one_hot(synthetic.y, num_classes).to(synthetic.z.dtype)
        weight, bias = ridge_weights(synthetic.z, targets, self.log_regularisation.exp())
        logits = self.log_scale.exp() * (real.z @ weight + bias)
        losses = F.cross_entropy(logits, real.y, reduction="none")
        return (losses * class_balanced_weight(real.y, num_classes)).sum()
