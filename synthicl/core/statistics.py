"""How certain an accuracy is, and whether two differ.

Wilson for one proportion; bootstrap over queries and draws for means over draws; differences are paired on the queries,
and Student's t says how sure they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

RESAMPLES = 10_000
CHUNK = 500  # resamples at once


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (E. B. Wilson, JASA 22, 1927), which holds its rate near 1 as well."""
    z = norm.ppf(0.5 + confidence / 2)
    p = correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(p, float(max(centre - half, 0.0)), float(min(centre + half, 1.0)))


def bootstrap_means(correct: np.ndarray, seed: int = 0) -> np.ndarray:
    """Bootstrap distribution of the mean accuracy, (RESAMPLES,): queries and draws are resampled independently.

    D draws resampled have only (D - 1) / D of their variance, and few draws need Student's t rather than the normal
    distribution (T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015,
    section 3.3): what resampling draws changes is stretched by sqrt(D / (D - 1)) t / z, with the quantiles of 97.5 %.

    Args:
        correct: (draws, q), bool. With one draw only queries are resampled.
        seed: of the resampling of queries; the same seed and q resample the same queries, which pairs two contexts.
    """
    draws, queries = correct.shape
    random = np.random.default_rng(seed)
    share = np.full(queries, 1 / queries)
    # All at once would take RESAMPLES * q numbers.
    parts = [min(CHUNK, RESAMPLES - done) for done in range(0, RESAMPLES, CHUNK)]
    resampled = (random.multinomial(queries, share, part) / queries for part in parts)
    per_draw = np.concatenate([weight @ correct.T.astype(float) for weight in resampled])  # (RESAMPLES, draws)
    draw_weight = random.multinomial(draws, np.full(draws, 1 / draws), RESAMPLES) / draws
    if draws > 1:
        stretch = (draws / (draws - 1)) ** 0.5 * student.ppf(0.975, draws - 1) / norm.ppf(0.975)
        draw_weight = 1 / draws + (draw_weight - 1 / draws) * stretch
    means: np.ndarray = (per_draw * draw_weight).sum(1)
    return means


def mean_accuracy(correct: np.ndarray) -> Interval:
    """Accuracy of a context: Wilson for one draw, bootstrap over queries and draws (draws, q) for several."""
    if len(correct) == 1:
        return wilson(int(correct.sum()), correct.shape[1])
    low, high = np.percentile(bootstrap_means(correct), [2.5, 97.5]).clip(0, 1)
    return Interval(float(correct.mean()), float(low), float(high))


class Comparison(NamedTuple):
    """A paired difference of accuracies.

    Attributes:
        difference: first minus second, with its 95 % interval.
        p_value: two-sided, see `p_value`.
    """

    difference: Interval
    p_value: float


def paired_difference(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compare two contexts on the same queries, each (draws, q), bool."""
    differences = np.round(bootstrap_means(first) - bootstrap_means(second), 12)  # a tie is a tie, not 1e-17
    low, high = np.percentile(differences, [2.5, 97.5]) + 0.0  # no negative zero
    interval = Interval(float(first.mean() - second.mean()), float(low), float(high))
    return Comparison(interval, p_value(first, second))


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of equal accuracy, each (draws, q), bool: Student's t with Satterthwaite's degrees of freedom.

    The variance is that of the draws of each side plus that of the queries, paired; five draws have four degrees of
    freedom, 500 queries 499, and their sum those of F. E. Satterthwaite, Biometrics Bulletin 2, 1946, as in B. L.
    Welch's test. A bootstrap over few draws has tails too light for what Holm's correction asks.
    """
    estimate = round(first.mean() - second.mean(), 12)
    queries = first.shape[1]
    by_query = first.mean(0) - second.mean(0)
    parts = [(side.mean(1).var(ddof=1) / len(side), len(side) - 1) for side in (first, second) if len(side) > 1]
    parts.append((by_query.var(ddof=1) / queries, queries - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:  # all queries differ, or none does
        return 1.0 if estimate == 0 else 2 * 0.5**queries
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return float(2 * student.sf(abs(estimate) / variance**0.5, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (S. Holm, Scandinavian Journal of Statistics 6, 1979) over named comparisons."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = running
    return [float(value) for value in adjusted]
