from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, false_discovery_control, norm, ttest_1samp
from statsmodels.stats.multitest import multipletests

from synthicl.core import statistics as intervals
from synthicl.core.statistics import (
    bootstrap_means,
    holm,
    mean_accuracy,
    mean_squares,
    paired_difference,
    score_interval,
    spread_of,
    wilson,
)


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 4000)


def drawn(random, draws, queries, shift=0.0, difficulty=None):
    """Correct answers where both draws and queries differ in difficulty, (draws, queries)."""
    difficulty = random.normal(1.5, 1, queries) if difficulty is None else difficulty
    logits = difficulty + random.normal(shift, 0.4, (draws, 1))
    return random.random((draws, queries)) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (5, 10), (523, 540), (1, 1)])
def test_wilson_equals_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson(correct, n) == pytest.approx((correct / n, expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("n", [200, 540, 3925])
def test_wilson_covers_at_its_rate(p, n):
    """Exactly: every count that can be observed, weighted with its probability."""
    counts = np.arange(n + 1)
    covered = [interval.low <= p <= interval.high for interval in (wilson(int(count), n) for count in counts)]
    assert binom.pmf(counts, n, p) @ covered == pytest.approx(0.95, abs=0.02)


def test_one_draw_is_a_proportion():
    correct = np.arange(50)[None] < 45
    assert mean_accuracy(correct) == wilson(45, 50)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (523, 540)])
def test_score_interval_of_one_draw_is_wilsons(correct, n):
    assert score_interval(np.arange(n)[None] < correct, norm.ppf(0.975)) == pytest.approx(wilson(correct, n), abs=1e-12)


def test_mean_squares_by_hand():
    """Draws right on 3 and 1 of 4: squares of their means 2 x 4 x 0.25^2, what is left over 3 degrees of freedom."""
    correct = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    left = correct - correct.mean(1, keepdims=True) - correct.mean(0) + 0.5
    assert mean_squares(correct) == pytest.approx((0.5, (left**2).sum() / 3))


def test_variance_counts_the_interaction_once():
    """Draws and queries without effects of their own: V is p (1 - p) / (D q), where resampling both says 3 times it."""
    random = np.random.default_rng(0)
    found = [spread_of(c.mean(0), c).variance for c in (random.random((20, 200)) < 0.7 for _ in range(400))]
    assert np.mean(found) == pytest.approx(0.21 / 4000, rel=0.2)  # no part is less than 0: a little more


def test_intervals_end_within_0_and_1():
    random = np.random.default_rng(0)
    for accuracy in (0.02, 0.98, 1.0):
        for draws in (2, 3, 20):
            estimate, low, high = mean_accuracy(random.random((draws, 30)) < accuracy)
            assert 0 <= low <= estimate <= high <= 1
            assert high - low > 0


def test_bootstrap_of_one_draw_has_the_width_of_a_proportion():
    correct = np.arange(400)[None] < 300
    assert bootstrap_means(correct).std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_same_seed_resamples_the_same_queries():
    easy = np.arange(100)[None] < 50
    np.testing.assert_allclose(bootstrap_means(easy) + bootstrap_means(~easy), 1)


def test_bootstrap_has_the_variance_of_the_intervals(few_resamples):
    """For many draws; for few it is stretched by Student's t."""
    correct = drawn(np.random.default_rng(0), 50, 200)
    assert bootstrap_means(correct).var() == pytest.approx(spread_of(correct.mean(0), correct).variance, rel=0.1)


def test_the_same_predictions_do_not_differ():
    """Means over other numbers of draws are the same but for rounding, and that is no difference."""
    for queries in (97, 200, 541):
        correct = np.arange(queries)[None] % 3 > 0
        (difference, low, high), p = paired_difference(correct, correct.repeat(7, 0))
        assert (difference, p) == (0, 1)
        assert low <= 0 <= high


def test_difference_is_paired_on_the_queries():
    """One context is right on ten queries more, and on all that the other gets right: no query speaks against it."""
    second = np.arange(200)[None] % 2 == 0
    first = second | (np.arange(200)[None] < 20)
    result = paired_difference(first, second)
    assert result.difference.estimate == pytest.approx(0.05)
    assert 0 < result.difference.low < 0.05 < result.difference.high
    assert result.p_value < 0.005  # a sign test of ten queries against none says 0.002
    swapped = paired_difference(second, first)
    assert swapped.difference == pytest.approx((-0.05, -result.difference.high, -result.difference.low))
    assert swapped.p_value == result.p_value


def test_p_value_is_never_zero():
    difference, p = paired_difference(np.ones((1, 50), bool), np.zeros((3, 50), bool))
    assert difference.estimate == 1
    assert 0.8 < difference.low < 1
    assert 0 < p < 1e-10


def test_one_draw_each_is_newcombes_interval():
    """R. G. Newcombe, Statistics in Medicine 17, 1998, method 10 without its correction of phi, on 36 + 12 queries.

    Both right on 20, only the first on 12, only the second on 2, neither on 16; Student's t for 49 degrees of freedom.
    """
    first, second = (
        (np.repeat([1, 1, 0, 0], (20, 12, 2, 16))[None] > 0),
        (np.repeat([1, 0, 1, 0], (20, 12, 2, 16))[None] > 0),
    )
    t = intervals.student.ppf(0.975, 49)

    def score(count):
        root = t * (t**2 / 4 + count * (1 - count / 50)) ** 0.5
        return (count + t**2 / 2 - root) / (50 + t**2), (count + t**2 / 2 + root) / (50 + t**2)

    (low_1, high_1), (low_2, high_2) = score(32), score(22)
    phi = (20 * 16 - 12 * 2) / (32 * 18 * 22 * 28) ** 0.5
    below, above = (0.64 - low_1, high_2 - 0.44), (high_1 - 0.64, 0.44 - low_2)
    expected = [sign * (a * a - 2 * phi * a * b + b * b) ** 0.5 for sign, (a, b) in ((-1, below), (1, above))]
    found = paired_difference(first, second).difference
    assert found == pytest.approx((0.2, 0.2 + expected[0], 0.2 + expected[1]), abs=1e-9)


def test_far_from_the_ends_it_is_the_paired_t_test():
    random = np.random.default_rng(0)
    first, second = random.random((2, 1, 3000)) < np.array([0.5, 0.54])[:, None, None]
    expected = ttest_1samp(first[0] * 1.0 - second[0], 0).pvalue
    assert paired_difference(first, second).p_value == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("draws", "spread"), [(5, 0.0), (5, 0.25), (20, 0.5)])
def test_small_p_values_are_as_rare_as_they_say(draws, spread):
    """Contexts of equal accuracy; Holm's correction asks for the small ones."""
    random, runs = np.random.default_rng(0), 1000
    found = []
    for _ in range(runs):
        difficulty = random.normal(1.5, 1, 200)
        pair = [
            random.random((draws, 200)) < 1 / (1 + np.exp(-difficulty - random.normal(0, spread, (draws, 1))))
            for _ in range(2)
        ]
        found.append(paired_difference(*pair).p_value)
    for level in (0.05, 0.01, 0.005):
        assert (np.array(found) < level).mean() <= 1.3 * level + 3 * np.sqrt(level / runs)


def test_holm_by_hand():
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, and none under the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("given", "expected"), [([], []), ([0.2], [0.2]), ([0.6, 0.7], [1, 1]), ([0.01, 0.01, 1.0], [0.03, 0.03, 1])]
)
def test_holm_at_the_edges(given, expected):
    assert holm(given) == pytest.approx(expected)


def closed_testing(p_values):
    """Holm's correction from its definition: closed testing in which Bonferroni judges each set of hypotheses."""
    everyone = range(len(p_values))
    sets = [chosen for size in everyone for chosen in combinations(everyone, size + 1)]
    return [max(min(1, len(c) * min(p_values[i] for i in c)) for c in sets if one in c) for one in everyone]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_holm_is_closed_testing(count):
    random = np.random.default_rng(count)
    for _ in range(20):
        given = list(random.random(count) ** 3)
        assert holm(given) == pytest.approx(closed_testing(given))
        assert all(np.array(holm(given)) >= false_discovery_control(given) - 1e-12)  # a weaker promise, from scipy


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_holm_equals_statsmodels(count):
    random = np.random.default_rng(count)
    for _ in range(20):
        given = (random.random(count) ** 3).round(random.integers(1, 6))  # some are equal, some are 0
        _, expected, *_ = multipletests(given, method="holm")
        assert holm(list(given)) == pytest.approx(expected, abs=1e-12)
