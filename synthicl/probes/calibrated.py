"""What val says about how far TabICL's answers can be trusted, kept with a context set: few numbers, one value.

Val also chose the preprocessing, and with ``best_on_val`` the state of the images, and the temperature is fitted on the
images whose scores are then taken. New images are exchangeable with val up to that, and as far as they are of its kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.calibration import fit_temperature, tempered
from synthicl.probes.conformal import prediction_sets, threshold
from synthicl.probes.novelty import Novelty
from synthicl.probes.probe import Probe
from synthicl.probes.score import chance_of_truth


@dataclass(frozen=True)
class Calibration:
    """What is kept of v images of val.

    Attributes:
        temperature: of the probabilities, see `synthicl.probes.calibration`.
        nonconformity: (v,), float32: 1 minus the probability of the true class, at that temperature; sorted.
        novelty: the score of what is unlike the training images.
        novelties: (v,), float32: that score of val; sorted.
    """

    temperature: float
    nonconformity: Tensor
    novelty: Novelty
    novelties: Tensor

    @property
    def images(self) -> int:
        """How many images of val, v."""
        return len(self.nonconformity)

    @property
    def is_fitted(self) -> bool:
        """Whether val had an error to fit a temperature to; it is 1 otherwise, see `fit_temperature`."""
        return self.temperature != 1

    def probabilities(self, uncalibrated: np.ndarray) -> np.ndarray:
        """Probabilities (q, C) at the temperature of val."""
        return tempered(uncalibrated, self.temperature)

    def sets(self, probabilities: np.ndarray, coverage: float) -> np.ndarray:
        """Which classes are in the conformal set of each query, (q, C), bool; ``probabilities`` at the temperature."""
        return prediction_sets(probabilities, threshold(self.nonconformity.numpy(), coverage))

    def novel(self, scores: np.ndarray, accepted: float) -> np.ndarray:
        """Which novelties (q,) are above those of a share ``accepted`` of images like val, (q,), bool."""
        return np.asarray(scores > self.most_novel(accepted))

    def most_novel(self, accepted: float) -> float:
        """The novelty that a share ``accepted`` of images like val stays below or at."""
        return threshold(self.novelties.numpy(), accepted)


def calibrate(probe: Probe, classes: np.ndarray, val: LabelledEmbeddings, novelty: Novelty) -> Calibration:
    """Calibrate a fitted probe on val.

    Args:
        probe: fitted on a context.
        classes: sorted class indices of the context.
        val: v clean embeddings, not among the context.
        novelty: fitted on the training embeddings.
    """
    uncalibrated, truth = probe.predict_proba(val.z), val.y.numpy()
    temperature = float(np.float32(fit_temperature(uncalibrated, truth, classes)))  # as a context set keeps it
    chance = chance_of_truth(tempered(uncalibrated, temperature), truth, classes)
    # In the precision of the probabilities, in which they are compared.
    nonconformity, novelties = (np.sort(scores).astype(np.float32) for scores in (1 - chance, novelty(val.z)))
    return Calibration(temperature, torch.from_numpy(nonconformity), novelty, torch.from_numpy(novelties))
