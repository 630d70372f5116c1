r"""Whether probabilities are what they say, beside how often the most probable class is right.

The Brier score is the mean squared distance of a query's probabilities from its class, 0 to 2,

    mean_i sum_c (p_ic - [y_i = c])^2    (G. W. Brier, Monthly Weather Review 78, 1950).

The expected calibration error puts queries into bins by the probability of the class that is predicted, the confidence,
and takes the mean distance of confidence and accuracy, sum_b n_b / n |acc_b - conf_b| (C. Guo et al., "On Calibration
of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599), here with 15 bins of equal width as there. It
is not 0 for finite n even where calibration is perfect.

A temperature T mends probabilities without changing which is largest: p_c^(1/T) / sum_d p_d^(1/T), with the T that
minimises the cross-entropy on images that played no part in fitting (Guo et al., section 4.2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from synthicl.probes.score import chance_of_truth

BINS = 15
MAX_TEMPERATURE = 20.0  # at which ten classes are nearly even, whatever they were
FLOOR = float(np.finfo(np.float32).tiny)  # of a probability whose logarithm is taken


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


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (q, C) at another temperature: above 1 they come nearer to each other, at 1 they stay."""
    if temperature == 1:
        return probabilities
    found: np.ndarray = softmax(np.log(np.maximum(probabilities, FLOOR)) / temperature, axis=1)
    return found.astype(probabilities.dtype)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> float:
    """The temperature that minimises the cross-entropy of probabilities (q, C) of the ``classes`` (C,).

    The cross-entropy is convex in 1/T, which is searched from 1/20 to 20. Where every query is answered correctly it
    falls all the way to T = 0, so the queries say nothing about how certain to be: the temperature is 1 then.

    Args:
        probabilities: of queries that played no part in fitting.
        truth: their classes (q,); a class that the context lacks has no probability at any temperature, and no say.
        classes: sorted.
    """
    known = np.isin(truth, classes)
    truth, logits = (
        np.searchsorted(classes, truth[known]),
        np.log(np.maximum(probabilities[known], FLOOR)).astype(float),
    )
    if (logits.argmax(1) == truth).all():
        return 1.0

    def cross_entropy(inverse: float) -> float:
        return -float(log_softmax(inverse * logits, axis=1)[np.arange(len(truth)), truth].mean())

    bounds = (1 / MAX_TEMPERATURE, MAX_TEMPERATURE)
    return float(1 / minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
