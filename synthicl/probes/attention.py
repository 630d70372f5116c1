"""Which context rows TabICL looks at when it classifies a query, in the ensemble that is deployed.

It says where TabICL looks, not what decides: S. Jain and B. C. Wallace, "Attention is not Explanation", NAACL 2019,
https://arxiv.org/abs/1902.10186.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.differentiable import DifferentiableTabICL, members_of


class ContextAttention:
    """The attention of queries to the rows of a context, see `DifferentiableTabICL.attention`.

    Args:
        probe: fitted on the context.
        context: n rows.
    """

    def __init__(self, probe: TabICLProbe, context: LabelledEmbeddings) -> None:
        self.tabicl = DifferentiableTabICL(probe.deployment.model_path, probe.device)
        self.members = members_of(probe.learners()[0])
        self.preprocessing = probe.preprocessing
        self.device = probe.device
        self.columns = self.preprocessing(context.z)[None].to(self.device)
        self.labels = context.y.unique(return_inverse=True)[1].to(self.device)

    @classmethod
    def of(cls, probe: TabICLProbe, context: LabelledEmbeddings) -> Self | None:
        """None where the context has more classes than TabICL has outputs: it is asked several questions then."""
        return cls(probe, context) if len(context.y.unique()) <= probe.outputs else None

    def __call__(self, z: Tensor) -> Tensor:
        """Attention (L, q, n), double, on the CPU, of queries z (q, D) in the L blocks of the in-context stage.

        Means over members and heads; rows sum to 1. All queries are held at once.
        """
        queries = self.preprocessing(z)[None].to(self.device)
        each = [self.tabicl.attention(self.columns, self.labels, queries, member)[0] for member in self.members]
        return torch.stack([attention.cpu().double() for attention in each]).mean(0)
