"""The in-context objective: TabICL itself is the probe in the loop.

Cross-entropy of TabICL(query | synthetic context) on real queries, back-propagated through TabICL into the context rows
and on into the images. The idea without images: In-Context Data Distillation with TabPFN, Ma et al., 2024,
https://arxiv.org/abs/2402.06971. Each view of the synthetic images is a context of its own; the order of columns,
the shift of labels and the power transform are drawn in each step, as the deployed ensemble varies them.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from synthicl.assets import obtain
from synthicl.errors import UserError
from synthicl.in_context.checkpoint import checkpoint_asset
from synthicl.in_context.differentiable import DifferentiableTabICL, random_member
from synthicl.in_context.protocol import fit_protocol
from synthicl.objectives.objective import LabelledEmbeddings, Objective


class InContext(Objective):
    """Mean cross-entropy, in nats, of real queries given the synthetic context.

    With more classes than TabICL has outputs, each step looks at as many classes as it has, drawn at random.

    Args:
        protocol: what happens to embeddings before TabICL; give ``--tabicl.protocol`` the same.
        checkpoint: TabICL checkpoint, as ``--tabicl.checkpoint``.
        model_path: a local checkpoint file that takes its place.
        queries: real queries drawn for each view in a step.
        members: ensemble members drawn in a step.
    """

    def __init__(
        self,
        protocol: str = "rotated16",
        checkpoint: str = "mini",
        model_path: str | None = None,
        queries: int = 64,
        members: int = 1,
    ) -> None:
        self.protocol_name = protocol
        self.model_path = obtain(checkpoint_asset(checkpoint, model_path))
        self.queries = queries
        self.members = members

    def check_deployed(self, protocol: str, model_path: Path) -> None:
        """Check that the TabICL that scores the images is the one in the loop.

        Raises:
            UserError: protocol or checkpoint differ; the message names the flags.
        """
        for name, mine, other in (
            ("protocol", self.protocol_name, protocol),
            ("model_path", self.model_path, model_path),
        ):
            if mine != other:
                raise UserError(
                    f"--tabicl.{name} is {other}, but the in-context objective has {mine}. Give both the same: see "
                    "configs/objective/in_context.yaml."
                )

    def prepare(self, train: LabelledEmbeddings) -> None:
        """Fit the protocol, and load TabICL where the embeddings are."""
        self.protocol = fit_protocol(self.protocol_name, train.z.cpu())
        self.tabicl = DifferentiableTabICL(self.model_path, train.z.device)

    def __call__(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss; see `Objective`."""
        classes = torch.randperm(num_classes, generator=generator)[: self.tabicl.max_classes].sort().values
        new_label = torch.full((num_classes,), -1)
        new_label[classes] = torch.arange(len(classes))
        new_label = new_label.to(real.y.device)

        # Rows of an image follow each other, one for each view: view v of all images is every views-th row from v on.
        seen = new_label[synthetic.y] >= 0
        z, y = synthetic.z[seen], new_label[synthetic.y[seen]]
        views = synthetic.views
        context = z.unflatten(0, (-1, views)).transpose(0, 1)  # (views, n, D)
        labels = y[::views]

        candidates = (new_label[real.y] >= 0).nonzero().flatten()
        drawn = torch.randint(len(candidates), (views, self.queries), generator=generator).to(candidates.device)
        chosen = candidates[drawn]
        queries, targets = self.protocol(real.z[chosen]), new_label[real.y[chosen]]
        columns = self.protocol(context)
        losses = []
        for _ in range(self.members):
            member = random_member(columns.shape[-1], len(classes), generator)
            logits = self.tabicl.logits(columns, labels, queries, member)
            losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
        return torch.stack(losses).mean()
