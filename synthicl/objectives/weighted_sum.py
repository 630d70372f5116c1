"""Several objectives at once, or one after another."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.objective import CPU, Objective, View, Views
from synthicl.tabicl.deployment import Deployment


class WeightedSum(Objective):
    """Sum of objectives, each multiplied by its weight, from some share of the run on.

    An objective that is hard to minimise from noise can join when an easier one has brought the images near: a
    curriculum (Bengio et al., Curriculum Learning, ICML 2009, https://doi.org/10.1145/1553374.1553380).

    Args:
        terms: the objectives; each is shown the view of the images that it looks at.
        weights: one for each.
        starts: for each the share of the run's steps, in [0, 1), after which it joins; it is not computed before. None
            for all from the beginning. A run that resumes with a larger ``--trainer.max_steps`` is less far than it
            was, and terms can leave again.

    Raises:
        UserError: as many weights and starts as terms are needed, and a term to begin with.
    """

    def __init__(self, terms: list[Objective], weights: list[float], starts: list[float] | None = None) -> None:
        super().__init__()
        starts = [0.0] * len(terms) if starts is None else starts
        for given, what in ((weights, "weights"), (starts, "starts")):
            if len(given) != len(terms) or not terms:
                raise UserError(f"--model.objective: {len(given)} {what} for {len(terms)} terms. Give one for each.")
        if not all(math.isfinite(weight) for weight in weights):
            raise UserError(f"--model.objective: weights={weights} must be finite numbers.")
        if 0 not in starts or not all(0 <= start < 1 for start in starts):
            raise UserError(
                f"--model.objective: starts={starts} must be shares of the run, from 0 to below 1, and one of them 0."
            )
        self.terms = nn.ModuleList(terms)
        self.uses_soft_labels = all(term.uses_soft_labels for term in terms)
        self.weights = weights
        self.starts = starts
        self._progress = 0.0

    def __repr__(self) -> str:
        """The terms with their weights."""
        return " + ".join(
            f"{weight} {term!r}" + (f" from {start:g} of the run on" if start else "")
            for weight, term, start in zip(self.weights, self.terms, self.starts, strict=True)
        )

    @override
    def prepare(self, train: LabelledEmbeddings, deployment: Deployment, device: torch.device = CPU) -> None:
        for term in self.terms:
            cast(Objective, term).prepare(train, deployment, device)

    @override
    def advance(self, progress: float) -> None:
        self._progress = progress
        for term in self.terms:
            cast(Objective, term).advance(progress)

    @override
    def looks_at(self) -> set[View]:
        return {view for term in self.terms for view in cast(Objective, term).looks_at()}

    @override
    def loss(self, synthetic: Views, real: Views, num_classes: int, generator: torch.Generator) -> Tensor:
        losses = [
            weight * cast(Objective, term).loss(synthetic, real, num_classes, generator)
            for weight, term, start in zip(self.weights, self.terms, self.starts, strict=True)
            if self._progress >= start
        ]
        return torch.stack(losses).sum()

    @override
    def forward(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss with the same embeddings for every term, whatever it looks at."""
        return self.loss(Views(synthetic, synthetic), Views(real, real), num_classes, generator)
