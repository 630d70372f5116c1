r"""How well a score tells two groups apart: the area under the ROC curve, with its interval.

The area is the chance that a random member of the first group scores above a random one of the second, ties counting
half: 0.5 where the score says nothing, 1 where it says all. Its variance is that of E. R. DeLong, D. M. DeLong and
D. L. Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves",
Biometrics 44, 1988, from the placements of each case in the other group,

    V = var_i(P(x_i > Y)) / m + var_j(P(X > y_j)) / n,

and likewise, from differences of placements, that of two scores of the same cases. Intervals are normal; where the
groups do not overlap at all the variance is 0, and the interval a point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from synthicl.core.statistics import Comparison, Interval

Z = float(norm.ppf(0.975))


class Placements(NamedTuple):
    """Where each case stands in the other group.

    Attributes:
        first: (m,), share of the second group that scores lower, ties half.
        second: (n,), share of the first group that scores higher, ties half.
    """

    first: np.ndarray
    second: np.ndarray


def placements(first: np.ndarray, second: np.ndarray) -> Placements:
    """Placements of the scores of two groups, (m,) and (n,), two cases at least in each."""

    def share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        ordered = np.sort(others)
        both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        share: np.ndarray = both / (2 * len(others))
        return share

    return Placements(share_below(first, second), 1 - share_below(second, first))


def auroc(first: np.ndarray, second: np.ndarray) -> Interval:
    """The area for scores of two groups, (m,) and (n,), with its 95 % interval, within [0, 1]."""
    estimate, half = _mean_and_half(placements(first, second))
    return Interval(estimate, max(estimate - half, 0.0), min(estimate + half, 1.0))


def auroc_score_interval(first: np.ndarray, second: np.ndarray) -> Interval:
    """The same area with an interval for areas near 0 and 1, which is no point where the groups do not overlap.

    The score interval of R. G. Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic. Part 2", Statistics in Medicine 25, 2006 (method 5).
    """
    m, n, area = len(first), len(second), float(placements(first, second).first.mean())
    mean_size, tiny = (m + n) / 2 - 1, 1e-12  # at limits of 0 and 1 there is no spread

    def beyond(limit: float) -> float:
        spread = 1 + mean_size * (1 - limit) / (2 - limit) + mean_size * limit / (1 + limit)
        return abs(area - limit) - Z * float(np.sqrt(limit * (1 - limit) * spread / (m * n)))

    low = float(brentq(beyond, 0, area - tiny)) if area > tiny else 0.0
    high = float(brentq(beyond, area + tiny, 1)) if area < 1 - tiny else 1.0
    return Interval(area, low, high)


def auroc_difference(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Comparison:
    """The area of one score minus that of another, for the same cases in the same order, with its p-value."""
    (first, second), (first_of_other, second_of_other) = placements(*one), placements(*other)
    estimate, half = _mean_and_half(Placements(first - first_of_other, second - second_of_other))
    estimate = round(estimate, 12) + 0.0  # a tie is a tie, not 1e-17
    p_value = float(2 * norm.sf(abs(estimate) * Z / half)) if half > 0 else float(estimate == 0)
    return Comparison(Interval(estimate, estimate - half, estimate + half), p_value)


def _mean_and_half(placed: Placements) -> tuple[float, float]:
    """The area, and half the width of its interval."""
    variance = sum(float(side.var(ddof=1)) / len(side) for side in placed)
    return float(placed.first.mean()), Z * variance**0.5
