"""How often 95 % intervals hold the truth, and on which side they miss it, by simulation.

`test_statistics` has the exact coverage of Wilson's.

The generative model: draw d is right on query i with the probability expit(m + a_d + b_i + c_di), the effects normal;
b has a standard deviation of 1.5, c (the interaction) of 0.5, a is given. m is such that the mean is ``accuracy``.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from synthicl.core import statistics
from synthicl.core.statistics import mean_accuracy, paired_difference
from synthicl.studies.scaling.compute import equivalent_rows
from synthicl.studies.scaling.show import worth

RUNS = 900  # a rate of 0.95 is seen with a standard error of 0.007
NOISE = 0.022  # three of them
QUERIES, OWN, BOTH = 1.5, 0.7, 0.5  # OWN: the part of b that two contexts do not share
QUANTILES = norm.ppf((np.arange(4000) + 0.5) / 4000)


@cache
def offset(accuracy, spread):
    deviation = (QUERIES**2 + BOTH**2 + spread**2) ** 0.5
    return brentq(lambda m: expit(m + deviation * QUANTILES).mean() - accuracy, -5, 20)


def answers(random, draws, accuracy, spread, difficulty):
    logit = offset(accuracy, spread) + difficulty + random.normal(0, spread, (draws, 1))
    logit = logit + random.normal(0, BOTH, (draws, len(difficulty)))
    return random.random(logit.shape) < expit(logit)


def worse_side(rate):
    """How often the truth may lie beyond one end: half of 5 %, or in a corner that is named all of what is missed."""
    return (0.025 if rate >= 0.94 else 1 - rate) + NOISE


@pytest.mark.parametrize(
    ("draws", "queries", "accuracy", "spread", "rate"),
    [
        (50, 539, 0.7, 0.8, 0.95),
        (20, 539, 0.9, 0.2, 0.95),
        (20, 100, 0.5, 0.0, 0.95),
        (5, 539, 0.96, 0.2, 0.95),
        (5, 539, 0.7, 0.2, 0.945),
        (5, 539, 0.96, 0.0, 0.965),
        (5, 100, 0.9, 0.8, 0.94),
        (3, 539, 0.95, 0.2, 0.95),
        (3, 539, 0.96, 0.0, 0.97),  # draws all alike: their variance cannot be estimated below 0
        (3, 100, 0.7, 0.8, 0.92),  # three draws do not show how much they differ
        (3, 100, 0.98, 0.0, 0.98),  # a few wrong answers
        (20, 100, 0.98, 0.8, 0.93),  # a few hard queries
        (50, 100, 0.98, 0.0, 0.93),
    ],
)
def test_mean_over_draws(draws, queries, accuracy, spread, rate):
    random = np.random.default_rng(0)
    below = above = 0
    for _ in range(RUNS):
        _, low, high = mean_accuracy(answers(random, draws, accuracy, spread, random.normal(0, QUERIES, queries)))
        below, above = below + (accuracy < low), above + (accuracy > high)
    assert 1 - (below + above) / RUNS == pytest.approx(rate, abs=NOISE)
    assert max(below, above) / RUNS < worse_side(rate)


@pytest.mark.parametrize(
    ("draws", "queries", "accuracies", "spread", "rate"),
    [
        ((1, 1), 539, (0.96, 0.94), 0.0, 0.955),
        ((1, 20), 539, (0.96, 0.7), 0.8, 0.955),
        ((1, 50), 539, (0.9, 0.9), 0.2, 0.955),
        ((5, 5), 539, (0.95, 0.9), 0.2, 0.96),
        ((1, 5), 539, (0.9, 0.9), 0.2, 0.95),
        ((1, 50), 100, (0.98, 0.98), 0.0, 0.955),  # Student's t alone: 0.87
        ((5, 5), 539, (0.96, 0.96), 0.0, 0.975),  # draws all alike, on both sides
        ((1, 1), 100, (0.98, 0.98), 0.0, 0.985),  # four queries that speak for or against
        ((1, 3), 539, (0.95, 0.9), 0.8, 0.91),  # three draws do not show how much they differ
    ],
)
def test_paired_difference(draws, queries, accuracies, spread, rate):
    """The interval holds the difference at its rate, and p < 0.05 exactly where it does not hold 0."""
    random = np.random.default_rng(0)
    below = above = 0
    for _ in range(RUNS):
        shared = random.normal(0, (QUERIES**2 - OWN**2) ** 0.5, queries)
        sides = [
            answers(random, count, accuracy, spread * (count > 1), shared + random.normal(0, OWN, queries))
            for count, accuracy in zip(draws, accuracies, strict=True)
        ]
        (_, low, high), p = paired_difference(*sides)
        truth = accuracies[0] - accuracies[1]
        below, above = below + (truth < low), above + (truth > high)
        assert (p < 0.05) == (low > 0 or high < 0)
    assert 1 - (below + above) / RUNS == pytest.approx(rate, abs=NOISE)
    assert max(below, above) / RUNS < worse_side(rate)


def test_worth_in_rows(monkeypatch):
    """What one context is worth on a curve of five draws each. With 400 queries 200 simulations gave 0.93 to 0.96."""
    monkeypatch.setattr(statistics, "RESAMPLES", 600)
    runs, queries, reached = 200, 100, 0.85
    sizes, levels = np.array([10, 20, 50, 100, 200]), np.array([0.7, 0.78, 0.86, 0.9, 0.93])
    truth = equivalent_rows(sizes, levels, reached)
    random = np.random.default_rng(0)
    results = SimpleNamespace(correct=lambda rows: np.stack([row.right for row in rows]))
    below = above = 0
    for _ in range(runs):
        shared = random.normal(0, (QUERIES**2 - OWN**2) ** 0.5, queries)

        def context(draws, accuracy, spread, shared=shared):
            own = shared + random.normal(0, OWN, queries)
            right = answers(random, draws, accuracy, spread, own)
            return [SimpleNamespace(right=row, accuracy=row.mean(), context="random") for row in right]

        curve = [(size, context(5, level, 0.2)) for size, level in zip(sizes, levels, strict=True)]
        found = worth(results, context(1, reached, 0.0)[0], curve).rows
        below, above = below + (truth < found.low), above + (truth > found.high)
    assert 0.905 <= 1 - (below + above) / runs <= 0.995  # three standard errors of 0.95
    assert max(below, above) / runs <= 0.025 + 0.033  # likewise of a side
