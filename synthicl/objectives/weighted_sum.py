"""Several objectives at once."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from synthicl.errors import UserError
from synthicl.objectives.objective import CPU, LabelledEmbeddings, Objective


class WeightedSum(Objective):
    """Sum of objectives, each multiplied by its weight.

    Args:
        terms: the objectives.
        weights: one for each.

    Raises:
        UserError: as many weights as terms are needed.
    """

    def __init__(self, terms: list[Objective], weights: list[float]) -> None:
        if len(terms) != len(weights) or not terms:
            raise UserError(
                f"--model.objective: {len(weights)} weights for {len(terms)} terms. Give one for each term."
            )
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.uses_targets = any(term.uses_targets for term in terms)
        self.weights = weights

    def __repr__(self) -> str:
        """The terms with their weights."""
        return " + ".join(f"{weight} {term!r}" for weight, term in zip(self.weights, self.terms, strict=True))

    def prepare(self, train: LabelledEmbeddings, device: torch.device = CPU) -> None:
        """Prepare every term."""
        for term in self.terms:
            cast(Objective, term).prepare(train, device)

    def forward(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss; see `Objective`."""
        losses = [
            weight * term(synthetic, real, num_classes, generator)
            for weight, term in zip(self.weights, self.terms, strict=True)
        ]
        return torch.stack(losses).sum()
