"""How often 95 % intervals hold the truth, by simulation. `test_intervals` has the exact coverage of Wilson's."""

import numpy as np
import pytest
from scipy.special import expit

from synthicl.core import statistics as intervals
from synthicl.core.statistics import mean_accuracy, wilson


@pytest.mark.parametrize("n", [200, 500])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_wilson(p, n):
    """Coverage oscillates about the rate with p and n, as counts are whole (L. D. Brown et al., 2001)."""
    counts, times = np.unique(np.random.default_rng(0).binomial(n, p, 20_000), return_counts=True)
    inside = [interval.low <= p <= interval.high for interval in (wilson(int(count), n) for count in counts)]
    assert 0.93 <= times @ inside / times.sum() <= 0.98


def coverage(draws, spread, runs, queries=539, seed=0):
    """Share of runs whose interval holds the mean accuracy over all draws and queries there could be.

    The logit of being right is normal over queries (standard deviation 1.5), over draws (``spread``) and over both
    together (0.5).
    """
    random = np.random.default_rng(seed)
    truth = expit(1.5 + random.normal(0, np.hypot(np.hypot(1.5, 0.5), spread), 10**6)).mean()
    inside = 0
    for _ in range(runs):
        logit = 1.5 + random.normal(0, 1.5, queries) + random.normal(0, spread, (draws, 1))
        correct = random.random((draws, queries)) < expit(logit + random.normal(0, 0.5, (draws, queries)))
        interval = mean_accuracy(correct)
        inside += interval.low <= truth <= interval.high
    return inside / runs


@pytest.mark.parametrize(
    ("draws", "spread", "least"),
    [
        (5, 0.2, 0.94),  # queries are most of the variance: resampling both is conservative
        (5, 0.4, 0.91),  # draws are most of it, as in a small share of digits
        (5, 0.8, 0.90),  # contexts of one row per class
        (3, 0.8, 0.90),
        (20, 0.8, 0.90),
    ],
)
def test_bootstrap_over_draws_and_queries(monkeypatch, draws, spread, least):
    """The nominal rate is 0.95; 200 runs of it give 0.91 or more in 99 of 100 cases."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    assert coverage(draws, spread, runs=200) >= least
