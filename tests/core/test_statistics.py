import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom, binomtest, norm, ttest_ind, ttest_rel

from synthicl.core import statistics as intervals
from synthicl.core.statistics import bootstrap_means, holm, mean_accuracy, p_value, paired_difference, wilson


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 400)


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


def test_bootstrap_covers_the_mean_over_queries_and_draws(few_resamples):
    random = np.random.default_rng(0)
    truth = drawn(random, 2000, 2000).mean()
    inside = []
    for _ in range(150):
        interval = mean_accuracy(drawn(random, 20, 100))
        inside.append(interval.low <= truth <= interval.high)
    # Resampling both is known to be conservative (A. B. Owen, Annals of Applied Statistics 1, 2007).
    assert 0.9 <= np.mean(inside) <= 1


def test_bootstrap_of_one_draw_has_the_width_of_a_proportion():
    correct = np.arange(400)[None] < 300
    assert bootstrap_means(correct).std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_same_seed_resamples_the_same_queries():
    easy = np.arange(100)[None] < 50
    np.testing.assert_allclose(bootstrap_means(easy) + bootstrap_means(~easy), 1)


def test_identical_contexts_do_not_differ():
    correct = drawn(np.random.default_rng(0), 5, 100)
    assert paired_difference(correct, correct) == ((0, 0, 0), 1)


def test_the_same_predictions_in_every_draw_do_not_differ():
    """Means over other numbers of draws are the same but for rounding, and that is no difference."""
    for queries in (97, 200, 541):
        correct = np.arange(queries)[None] % 3 > 0
        result = paired_difference(correct, correct.repeat(7, 0))
        assert result == ((0, 0, 0), 1)


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
    result = paired_difference(np.ones((1, 50), bool), np.zeros((3, 50), bool))
    assert result.difference == pytest.approx((1, 1, 1))
    assert 0 < result.p_value < 1e-10


@pytest.mark.parametrize("draws", [(1, 1), (1, 20), (10, 10)])
def test_equal_contexts_are_seldom_told_apart(few_resamples, draws):
    random = np.random.default_rng(0)
    claims = 0
    for _ in range(100):
        difficulty = random.normal(1.5, 1, 100)
        first, second = (
            random.random((count, 100))
            < 1 / (1 + np.exp(-difficulty - random.normal(0, 0.3, (count, 1)) * (count > 1)))
            for count in draws
        )
        claims += paired_difference(first, second).p_value < 0.05
    assert claims <= 12  # 5 expected


def test_one_draw_each_is_the_paired_t_test():
    random = np.random.default_rng(0)
    first, second = drawn(random, 1, 300), drawn(random, 1, 300, shift=0.3)
    assert p_value(first, second) == pytest.approx(ttest_rel(first[0] * 1.0, second[0] * 1.0).pvalue, rel=1e-9)


def test_draws_that_differ_have_the_degrees_of_freedom_of_draws():
    """All queries alike: what is left is Welch's test of the draws' accuracies."""
    first, second = (np.array(shares)[:, None].repeat(1000, 1) > 0.5 for shares in ((1, 1, 0, 1, 1), (0, 0, 1, 0)))
    expected = ttest_ind(first[:, 0], second[:, 0], equal_var=False).pvalue
    assert p_value(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("draws", "spread"), [(3, 0.0), (3, 0.25), (5, 0.0), (5, 0.25), (5, 0.5), (20, 0.5)])
def test_small_p_values_are_as_rare_as_they_say(draws, spread):
    """One context without draws against one whose draws differ by ``spread`` logits; Holm asks for the small ones."""
    random, queries, runs = np.random.default_rng(0), 200, 4000
    difficulty = random.normal(1.5, 1, (runs, 1, queries))
    other = random.normal(0, spread, (runs, draws, 1))
    # Draws that differ pull a mean towards a half: the same accuracy needs a shift.
    quantiles = norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    same = expit(1.5 + quantiles).mean()
    offset = brentq(lambda shift: expit(1.5 + shift + np.hypot(1, spread) * quantiles).mean() - same, -2, 2)
    first = random.random((runs, draws, queries)) < expit(difficulty + other + offset)
    second = random.random((runs, 1, queries)) < expit(difficulty)
    found = np.array([p_value(*pair) for pair in zip(first, second, strict=True)])
    for level in (0.05, 0.01, 0.005):
        # Accuracies of draws are skewed near 1, which three of them do not show: 1.3.
        assert (found < level).mean() <= 1.3 * level + 3 * np.sqrt(level / runs)


def test_holm_by_hand():
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, and none under the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("given", "expected"), [([], []), ([0.2], [0.2]), ([0.6, 0.7], [1, 1]), ([0.01, 0.01, 1.0], [0.03, 0.03, 1])]
)
def test_holm_at_the_edges(given, expected):
    assert holm(given) == pytest.approx(expected)
