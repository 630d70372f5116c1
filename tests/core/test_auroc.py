import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from synthicl.core.auroc import auroc, auroc_difference, auroc_score_interval, placements


def groups(m, n, shift=0.5, seed=0, ties=True):
    random = np.random.default_rng(seed)
    first, second = random.normal(shift, 1, m), random.normal(0, 1, n)
    return (first.round(1), second.round(1)) if ties else (first, second)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (30, 7), (200, 300)])
def test_the_area_is_scikit_learns(m, n):
    first, second = groups(m, n)
    expected = roc_auc_score(np.r_[np.ones(m), np.zeros(n)], np.r_[first, second])
    assert auroc(first, second).estimate == pytest.approx(expected)


def test_placements_by_brute_force():
    first, second = groups(9, 6)
    wins = (first[:, None] > second).astype(float) + 0.5 * (first[:, None] == second)
    placed = placements(first, second)
    np.testing.assert_allclose(placed.first, wins.mean(1))
    np.testing.assert_allclose(placed.second, wins.mean(0))


def test_a_score_that_says_nothing_or_all():
    some = np.arange(5.0)
    assert auroc(some, some).estimate == 0.5
    assert auroc(np.zeros(4), np.zeros(3)) == (0.5, 0.5, 0.5)
    assert auroc(some + 10, some) == (1.0, 1.0, 1.0)
    assert auroc(some, some + 10) == (0.0, 0.0, 0.0)


def test_the_interval_covers_the_truth_in_simulation():
    truth = norm.cdf(0.5 / 2**0.5)
    covered = []
    for seed in range(400):
        found = auroc(*groups(60, 40, seed=seed, ties=False))
        covered.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.975


def test_a_difference_is_paired():
    first, second = groups(100, 80, ties=False)
    random = np.random.default_rng(1)
    near = (first + random.normal(0, 0.05, 100), second + random.normal(0, 0.05, 80))
    paired = auroc_difference((first, second), near)
    assert paired.difference.estimate == pytest.approx(auroc(first, second).estimate - auroc(*near).estimate)
    alone = auroc(first, second)
    assert paired.difference.high - paired.difference.low < (alone.high - alone.low) / 3
    assert auroc_difference((first, second), (first, second)) == ((0.0, 0.0, 0.0), 1.0)


def test_the_p_value_is_the_confidence_at_which_the_interval_ends_at_zero():
    first, second = groups(100, 80, ties=False)
    found = auroc_difference((first, second), groups(100, 80, shift=0.2, seed=3, ties=False))
    error = (found.difference.high - found.difference.low) / 2 / norm.ppf(0.975)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(found.difference.estimate) / error))


def test_p_values_are_uniform_where_both_scores_say_as_much():
    """Of two scores that share half their noise, 5 % of p-values lie below 0.05."""
    below = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        shared = random.normal(0.5, 1, 60), random.normal(0, 1, 40)
        one, other = ([side + random.normal(0, 1, len(side)) for side in shared] for _ in range(2))
        below.append(auroc_difference(tuple(one), tuple(other)).p_value < 0.05)
    assert 0.025 <= np.mean(below) <= 0.08


def near_one(inside, outside):
    return auroc_score_interval(outside, inside)


def test_the_area_of_the_score_interval_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    inside, outside = random.integers(0, 9, 40), random.integers(2, 12, 30)  # with ties
    expected = roc_auc_score([0] * 40 + [1] * 30, np.concatenate([inside, outside]))
    area, low, high = near_one(inside, outside)
    assert area == pytest.approx(expected) and low < area < high
    assert near_one(outside, inside) == pytest.approx((1 - area, 1 - high, 1 - low))


def test_an_area_of_1_is_not_certain():
    area, low, high = near_one(np.arange(50), np.arange(50, 80))
    assert (area, high) == (1, 1) and 0.9 < low < 0.98
    assert near_one(np.arange(50, 80), np.arange(50))[:2] == (0, 0)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_an_area_holds_it(shift):
    random, truth = np.random.default_rng(0), norm.cdf(shift / np.sqrt(2))
    found = [near_one(random.normal(0, 1, 60), random.normal(shift, 1, 40)) for _ in range(250)]
    assert 0.91 <= np.mean([low <= truth <= high for _, low, high in found]) <= 0.985
