r"""Whether probabilities are what they say, beside how often the most probable class is right.

The Brier score is the mean squared distance of a query's probabilities from its class, 0 to 2,

    mean_i sum_c (p_ic - [y_i = c])^2    (G. W. Brier, Monthly Weather Review 78, 1950).

The expected calibration error puts queries into bins by the probability of the class that is predicted, the confidence,
and takes the mean distance of confidence and accuracy, sum_b n_b / n |acc_b - conf_b| (C. Guo et al., "On Calibration
of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599), here with 15 bins of equal width as there. It
is not 0 for finite n even where calibration is perfect.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from synthicl.probes.score import chance_of_truth

BINS = 15


def brier(probabilities: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> float:
    """Brier score of probabilities (q, C) of the ``classes`` (C,) for the true ones (q,), among others or not."""
    chance = chance_of_truth(probabilities, truth, classes)
    return float(((probabilities**2).sum(1) - 2 * chance + 1).mean())


class Reliability(NamedTuple):
    """Queries by their confidence.

    Attributes:
        number: queries of each bin, (BINS,).
        confidence: their mean confidence; nan in an empty bin.
        accuracy: the share of them that is right; likewise.
    """

    number: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float(np.nansum(self.number * np.abs(self.accuracy - self.confidence)) / self.number.sum())


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Bin queries with a ``confidence`` (n,) in [0, 1] that are ``correct`` (n,) or not; bins hold their upper end."""
    place = np.clip(np.ceil(confidence.astype(float) * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, values.astype(float), BINS) / count for values in (confidence, correct)]
    return Reliability(count, *means)
