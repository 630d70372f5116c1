"""What every objective is given and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.tabicl.deployment import Deployment

CPU = torch.device("cpu")
View = Literal["clean", "augmented"]
"""What the backbone is shown of an image: its clean centre, as a context row is, or augmented views."""


class Views(NamedTuple):
    """Embeddings of the same images by what the backbone was shown; None for what no objective of the run looks at.

    Without augmentation (``--model.views.number=0``) both are the clean ones.
    """

    clean: LabelledEmbeddings | None = None
    augmented: LabelledEmbeddings | None = None

    def of(self, view: View) -> LabelledEmbeddings:
        """The embeddings of a view.

        Raises:
            ValueError: they were not made, because `Objective.looks_at` did not ask for them.
        """
        found = self.clean if view == "clean" else self.augmented
        if found is None:
            raise ValueError(f"no {view} views: the objective's looks_at() does not name them")
        return found


class Objective(nn.Module, ABC):
    """A scalar function of synthetic and real embeddings, to be minimised by the synthetic images.

    Its parameters, if it has any, are learnt with the images.

    Attributes:
        uses_soft_labels: whether it can use soft labels.
        view: what it looks at.
    """

    uses_soft_labels: bool = False
    view: View = "augmented"

    def __repr__(self) -> str:
        """Name and plain settings: what identifies an objective in results and cards."""
        plain = (int, float, str, bool, list, type(None))
        shown = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        settings = ", ".join(f"{name}={value!r}" for name, value in shown.items() if isinstance(value, plain))
        return f"{type(self).__name__}({settings})"

    def prepare(self, train: LabelledEmbeddings, deployment: Deployment, device: torch.device = CPU) -> None:
        """Fit what depends on the training data, once, before the first step.

        Args:
            train: clean embeddings of the training split, on the CPU.
            deployment: the TabICL that the images are for.
            device: where the optimisation runs.
        """

    def learnt_parameters(self) -> list[Tensor]:
        """Its parameters that are learnt with the images."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def advance(self, progress: float) -> None:
        """Take note of the share of the run that is over, in [0, 1); called before each step."""

    def looks_at(self) -> set[View]:
        """What the backbone must be shown for it."""
        return {self.view}

    def loss(self, synthetic: Views, real: Views, num_classes: int, generator: torch.Generator) -> Tensor:
        """The loss of one step on the view that it looks at; see `forward`."""
        loss: Tensor = self(synthetic.of(self.view), real.of(self.view), num_classes, generator)
        return loss

    @abstractmethod
    def forward(
        self, synthetic: LabelledEmbeddings, real: LabelledEmbeddings, num_classes: int, generator: torch.Generator
    ) -> Tensor:
        """Compute the loss of one step.

        Args:
            synthetic: embeddings of all synthetic images, a row for each view of each; the loss is differentiable with
                respect to ``z``.
            real: embeddings of real images.
            num_classes: C.
            generator: CPU generator of this step's random draws, a function of (seed, step) alone.

        Returns:
            A scalar, float32.
        """
