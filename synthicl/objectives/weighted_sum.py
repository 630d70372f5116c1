"""Several objectives at once."""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.errors import UserError
from synthicl.objectives.objective import LabelledEmbeddings, Objective


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
        self.terms = terms
        self.weights = weights

    def prepare(self, train: LabelledEmbeddings) -> None:
        """Prepare every term."""
        for term in self.terms:
            term.prepare(train)

    def __call__(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss; see `Objective`."""
        losses = [
            weight * term(synthetic, real, num_classes, generator)
            for weight, term in zip(self.weights, self.terms, strict=True)
        ]
        return torch.stack(losses).sum()
