"""The in-context objective: TabICL itself is the probe in the loop.

Cross-entropy of TabICL(query | synthetic context) on real queries, back-propagated through TabICL into the context rows
and on into the images. The idea without images: In-Context Data Distillation with TabPFN, Ma et al., 2024,
https://arxiv.org/abs/2402.06971. Each view of the synthetic images is a context of its own; the order of columns,
the shift of labels and the power transform are drawn in each step, as the deployed ensemble varies them. Columns
that are constant in a context are no part of it, and have no gradient.

The targets are the labels of the queries, or what a teacher says of them: knowledge distillation (G. Hinton, O. Vinyals
and J. Dean, 2015, https://arxiv.org/abs/1503.02531). The teacher, logistic regression on all training embeddings, knows
how sure one can be of a crop, which a few hundred labels do not say.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from synthicl.core.assets import obtain
from synthicl.core.devices import to_device
from synthicl.core.distributed import world
from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.linear_probe import class_balanced_weight
from synthicl.objectives.objective import CPU, Objective, View, Views
from synthicl.probes.linear import LinearProbe
from synthicl.tabicl.checkpoint import check_checkpoint, checkpoint_asset
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.differentiable import DifferentiableTabICL, Member, random_member

FLAG = "--model.objective: checkpoints"


class InContext(Objective):
    """Mean cross-entropy, in nats, of real queries given the synthetic context.

    With more classes than TabICL has outputs, each step looks at as many classes as it has, drawn at random; with
    several images per class, at a random number of them.

    Args:
        checkpoints: TabICL checkpoints, names or local files, of which each step draws one; None for the one that
            scores the images.
        queries: real queries drawn for each view in a step.
        members: ensemble members drawn in a step.
        balanced: draw queries so that every class counts the same, and not as often as it occurs.
        recompute: whether TabICL's activations are computed again in the backward pass, for one view and member at a
            time: less memory for more time. They grow with views x (rows + queries) x columns; classes are limited by
            TabICL's outputs.
        view: what the context is made of; the ``clean`` row is the one that TabICL is given in the end.
        query_view: what the real queries are. Augmented views (``--model.views.number``, ``--model.real.bank_views``)
            are more and harder than the clean images of a small training set.
        targets: what TabICL is to say of a query: its label, or the probabilities that the ``linear`` probe, fitted on
            the clean training embeddings, gives it.
    """

    def __init__(
        self,
        checkpoints: list[str] | None = None,
        queries: int = 128,
        members: int = 1,
        balanced: bool = False,
        recompute: bool = False,
        view: View = "clean",
        query_view: View = "clean",
        targets: Literal["labels", "linear"] = "labels",
    ) -> None:
        super().__init__()
        for flag, value in (("queries", queries), ("members", members)):
            if value < 1:
                raise UserError(f"--model.objective: {flag}={value} of InContext must be at least 1.")
        self.checkpoints = checkpoints
        self.queries = queries
        self.members = members
        self.balanced = balanced
        self.recompute = recompute
        self.view = view
        self.query_view = query_view
        self.targets = targets
        self._model_paths = [obtain(checkpoint_asset(name, flags=(FLAG, FLAG))) for name in checkpoints or []]
        for path in self._model_paths:
            check_checkpoint(path, FLAG)

    @override
    def prepare(self, train: LabelledEmbeddings, deployment: Deployment, device: torch.device = CPU) -> None:
        self._preprocessing = deployment.preprocessing.to(device)
        paths = self._model_paths or [deployment.model_path]
        self._tabicls = [DifferentiableTabICL(path, device) for path in paths]
        if self.targets == "linear":
            teacher = LinearProbe()
            teacher.fit(train)
            self._teacher = tuple(part.to(device) for part in teacher.logit_weights())
        classes, most = int(train.y.max()) + 1, min(tabicl.max_classes for tabicl in self._tabicls)
        if classes > most and world()[0] == 0:
            print(
                f"Note: {classes} classes, and TabICL has {most} outputs. Each step looks at {most} classes drawn at "
                "random; the images are scored with all classes, in several questions that are not in the loop.",
                flush=True,
            )

    @override
    def looks_at(self) -> set[View]:
        return {self.view, self.query_view}

    @override
    def loss(self, synthetic: Views, real: Views, num_classes: int, generator: torch.Generator) -> Tensor:
        loss: Tensor = self(synthetic.of(self.view), real.of(self.query_view), num_classes, generator)
        return loss

    @override
    def forward(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        tabicl = self._tabicls[int(torch.randint(len(self._tabicls), (), generator=generator))]
        classes = torch.randperm(num_classes, generator=generator)[: tabicl.max_classes].sort().values
        new_label = torch.full((num_classes,), -1)
        new_label[classes] = torch.arange(len(classes))
        new_label = to_device(new_label, real.y.device)

        # Rows of an image follow each other, one for each view: view v of all images is every views-th row from v on.
        views = synthetic.views
        context = synthetic.z.unflatten(0, (-1, views)).transpose(0, 1)  # (views, n, D)
        y = synthetic.y[::views]
        rows = draw_rows(y, num_classes, classes, generator)
        columns, labels = self._preprocessing(context[:, rows]), new_label[y[rows]]

        chance = class_balanced_weight(real.y, num_classes) if self.balanced else torch.ones_like(real.z[:, 0])
        drawn = draw_with_chances(chance * (new_label[real.y] >= 0), views * self.queries, generator).view(views, -1)
        queries, truth = self._preprocessing(real.z[drawn]), new_label[real.y[drawn]]
        target = truth
        if self.targets == "linear":
            weight, bias = self._teacher
            logits = real.z[drawn] @ weight.to(real.z) + bias.to(real.z)
            target = logits[..., to_device(classes, logits.device)].softmax(-1) * (truth >= 0)[..., None]

        losses = []
        for _ in range(self.members):
            member = random_member(columns.shape[-1], len(classes), generator)

            def loss_of(columns: Tensor, queries: Tensor, target: Tensor, member: Member = member) -> Tensor:
                logits = tabicl.logits(columns, labels, queries, member)
                return mean_cross_entropy(logits.flatten(0, 1), target.flatten(0, 1))

            if self.recompute:
                parts = zip(columns.split(1), queries.split(1), target.split(1), strict=True)
                losses += [checkpoint(loss_of, *part, use_reentrant=False) for part in parts]
            else:
                losses.append(loss_of(columns, queries, target))
        return torch.stack(losses).mean()


def mean_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of the rows that count.

    Without a real row of any of a step's classes, rows of others are drawn; they count for nothing.

    Args:
        logits: (q, C).
        target: class indices (q,), -1 in a row that does not count; or probabilities (q, C), 0 in such a row.
    """
    if target.is_floating_point():
        return F.cross_entropy(logits, target.to(logits), reduction="sum") / target.sum().clamp_min(1)
    return F.cross_entropy(logits, target, ignore_index=-1, reduction="sum") / (target >= 0).sum().clamp_min(1)


# Numbers are drawn on the CPU, and what they choose is found on the device: nothing waits for it.


def draw_rows(y: Tensor, num_classes: int, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of a random number of rows per class, the same number for every class.

    Args:
        y: (n,), class indices, as many of each of the C classes.
        num_classes: C.
        classes: indices of the classes that rows are drawn of, on the CPU.
        generator: CPU generator.

    Returns:
        (m,), in ascending order.
    """
    shuffled = to_device(torch.randperm(len(y), generator=generator), y.device)
    by_class = shuffled[y[shuffled].argsort(stable=True)].view(num_classes, -1)
    count = int(torch.randint(1, by_class.shape[1] + 1, (), generator=generator))
    return by_class[to_device(classes, y.device), :count].flatten().sort().values


def draw_with_chances(chance: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices (count,) drawn with replacement, each with a chance proportional to ``chance`` (N,), not negative."""
    uniform = to_device(torch.rand(count, dtype=torch.float64, generator=generator), chance.device)
    heights = chance.double().cumsum(0)
    # To the right of equal heights: what has no chance is never drawn, not even by a 0.
    return torch.searchsorted(heights, uniform * heights[-1], right=True).clamp_max(len(chance) - 1)
