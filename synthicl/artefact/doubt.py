"""What ``predict`` says of how far its answers can be trusted: sets of classes, and images unlike the training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from synthicl.artefact.classifier import InContextClassifier
from synthicl.core.errors import UserError
from synthicl.core.settings import LEVEL
from synthicl.probes.calibrated import Calibration
from synthicl.probes.conformal import highest_level


@dataclass(frozen=True)
class Doubt:
    """What ``--coverage`` and ``--reject`` ask for beside a prediction.

    Attributes:
        coverage: of conformal sets, or None.
        reject: share of images like val that is accepted, or None.

    Raises:
        UserError: one of them does not lie between 0 and 1.
    """

    coverage: float | None = None
    reject: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in self.asked.items():
            if not 0 < value < 1:
                raise UserError(f"--{name}={value}: must lie between 0 and 1, for example --{name}={LEVEL}.")

    @property
    def asked(self) -> dict[str, float]:
        """What was asked for, by flag."""
        every = {"coverage": self.coverage, "reject": self.reject}
        return {name: value for name, value in every.items() if value is not None}

    @property
    def columns(self) -> list[str]:
        """The columns for it."""
        return [*(["set"] if self.coverage else []), *(["novel", "novelty"] if self.reject else [])]

    def check(self, calibration: Calibration | None, context: Path) -> None:
        """Check that it can be had.

        Raises:
            UserError: the context set does not say what val said.
        """
        if self.asked and calibration is None:
            flag, value = next(iter(self.asked.items()))
            raise UserError(
                f"--{flag}={value}: {context} keeps nothing of val to judge by: it was made by an earlier synthicl, or "
                "without a fit. Leave the flag out, or run the distillation again."
            )

    def cells(self, classifier: InContextClassifier, z: Tensor, probabilities: np.ndarray) -> list[list[Any]]:
        """The cells of each image, of embeddings z (q, D) with their probabilities (q, C)."""
        calibration = classifier.context_.calibration
        cells: list[list[Any]] = [[] for _ in probabilities]
        if self.coverage and calibration:
            order = (-probabilities).argsort(1, kind="stable")
            sets = calibration.sets(probabilities, self.coverage)
            for cell, ranked, chosen in zip(cells, order, sets, strict=True):
                cell.append(f"{{{'/'.join(str(classifier.classes_[index]) for index in ranked if chosen[index])}}}")
        if self.reject and calibration:
            scores = calibration.novelty(z)
            for cell, score, novel in zip(cells, scores, calibration.novel(scores, self.reject), strict=True):
                cell += ["yes" if novel else "no", score]
        return cells

    def out_of_reach(self, calibration: Calibration) -> dict[str, float]:
        """What of `asked` val has too few images for: the threshold of these is infinite."""
        most = highest_level(calibration.images)
        return {name: value for name, value in self.asked.items() if value > most}

    def explained(self, calibration: Calibration) -> list[str]:
        """Say what the numbers rest on, and what so few images of val cannot give: a line each."""
        n, most = calibration.images, highest_level(calibration.images)
        temperature = (
            f"Probabilities are at temperature {calibration.temperature:.2f}, from {n} images of val"
            if calibration.is_fitted
            else f"Probabilities are as TabICL gives them: it makes no error on the {n} images of val, so that nothing "
            "could be calibrated"
        )
        instead = {"coverage": "every class is in every set", "reject": "no image is marked as novel"}
        return [
            f"{temperature}; new ones are taken to be of their kind.",
            *(
                f"--{name}={value}: needs more than these {n}, so {instead[name]}; up to {most:.3f} can be had."
                for name, value in self.out_of_reach(calibration).items()
            ),
        ]
