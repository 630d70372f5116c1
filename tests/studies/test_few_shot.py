"""Planning of episodes against simulations and brute force; the command on toy embeddings."""

import math
import time

import numpy as np
import pytest
import torch
from scipy import stats

from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.core.statistics import t_interval
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.linear import LinearProbe
from synthicl.studies.few_shot import compute as module
from synthicl.studies.few_shot.compute import PILOT_EPISODES, few_shot
from synthicl.studies.few_shot.episodes import (
    ASSURANCE,
    EPISODE_COST,
    MIN_EPISODES,
    Spread,
    best_queries,
    classes_with,
    draw_episode,
    estimate_spread,
    make_plan,
    smallest_pool,
)
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject

ALPHA, BETA = 12, 3  # of the accuracies of simulated episodes: mean 0.8, standard deviation 0.1
WITHIN = ALPHA * BETA / ((ALPHA + BETA) * (ALPHA + BETA + 1))  # E[a (1 - a)]
BETWEEN = stats.beta(ALPHA, BETA).var()


def simulate(random, runs, episodes, queries, pool=None):
    """Right answers out of ``queries`` for each episode, (runs, episodes); drawn from a pool without replacement."""
    accuracy = random.beta(ALPHA, BETA, (runs, episodes))
    if pool is None:
        return random.binomial(queries, accuracy)
    right = random.binomial(pool, accuracy)
    return random.hypergeometric(right, pool - right, queries)


def answers(random, episodes, queries, pool=None):
    """The same as single answers, (episodes, queries), bool, of one run."""
    return np.arange(queries) < simulate(random, 1, episodes, queries, pool)[0][:, None]


@pytest.mark.parametrize(("episodes", "queries"), [(10, 5), (40, 20), (100, 1)])
def test_predicted_variance_is_the_simulated_one(episodes, queries):
    counts = simulate(np.random.default_rng(0), 40_000, episodes, queries)
    predicted = Spread(WITHIN, BETWEEN).variance(episodes, queries)
    assert (counts.mean(1) / queries).var() == pytest.approx(predicted, rel=0.02)  # its own error: 0.7 %


@pytest.mark.parametrize("queries", [5, 30, 40])
def test_predicted_variance_without_replacement(queries):
    """Of 40 queries; the accuracies over the pool vary more than those of the Beta distribution behind it."""
    pool = 40
    counts = simulate(np.random.default_rng(1), 40_000, 10, queries, pool)
    spread = Spread(WITHIN, BETWEEN + WITHIN / pool)
    assert (counts.mean(1) / queries).var() == pytest.approx(spread.variance(10, queries, pool), rel=0.02)


@pytest.mark.parametrize(("pool", "between"), [(None, BETWEEN), (40, BETWEEN + WITHIN / 40)])
def test_estimates_are_unbiased(pool, between):
    random = np.random.default_rng(0)
    found = np.array([estimate_spread(answers(random, 100, 10, pool), pool or math.inf) for _ in range(4000)])
    assert found.mean(0) == pytest.approx([WITHIN, between], rel=0.015)


def test_estimates_by_hand():
    """Accuracies 1/2 and 1: a (1 - a) is 1/4 and 0, their mean times 4/3 is 1/6; the variance is 1/8."""
    correct = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    assert estimate_spread(correct) == pytest.approx((1 / 6, 1 / 8 - 1 / 24))
    assert estimate_spread(correct, pool=4) == pytest.approx((1 / 6, 1 / 8))
    assert estimate_spread(correct[[0, 0]]) == pytest.approx((1 / 3, 0))  # not negative


@pytest.mark.parametrize("pool", [50, 400, 10_000])
@pytest.mark.parametrize("costs", [(1.0, 0.5), (1.0, 0.01), (0.1, 0.001)])
def test_the_best_number_of_queries_by_brute_force(costs, pool):
    """The variance that a budget leaves, for every number of queries; episodes need not be whole."""
    spread = Spread(WITHIN, BETWEEN)
    left = [
        spread.variance(100 / (costs[0] + costs[1] * queries), queries, pool) if queries else math.inf
        for queries in range(pool + 1)
    ]
    assert abs(best_queries(spread, *costs, pool) - int(np.argmin(left))) <= 1


def test_the_best_number_of_queries_in_a_large_pool():
    assert best_queries(Spread(0.16, 0.01), 1, 0.01, 10**9) == 40  # sqrt(100 x 16)


def test_where_episodes_do_not_differ_all_queries_are_asked():
    assert best_queries(Spread(0.16, 0.0), 1, 0.01, 70) == 70
    assert best_queries(Spread(0.0, 0.01), 1, 0.01, 70) == 1


def test_plan():
    spread = Spread(0.16, 0.01)
    plan = make_plan(spread, 60, 10**6, half_width=0.02, budget=10**6)
    assert plan.queries == round(math.sqrt(EPISODE_COST * 16)) == 80
    assert plan.error == pytest.approx(math.sqrt((0.01 + 0.16 / 80) / plan.episodes), rel=1e-3)
    assert plan.episodes == plan.wanted < plan.affordable == int(10**6 / (EPISODE_COST + 80))
    for episodes, enough in ((plan.episodes, True), (plan.episodes - 1, False)):
        factor = stats.f.ppf(ASSURANCE, episodes - 1, 59)
        half = stats.t.ppf(0.975, episodes - 1) * math.sqrt(factor * spread.variance(episodes, 80, 10**6))
        assert (half <= 0.02) == enough
    poor = make_plan(spread, 60, 10**6, half_width=0.02, budget=40_000)
    assert poor.episodes == poor.affordable == int(40_000 / (EPISODE_COST + 80))
    assert make_plan(spread, 60, 10**6, 0.02, budget=5).episodes == MIN_EPISODES
    assert make_plan(spread, 60, 10**6, 0.5, budget=10**6).episodes == MIN_EPISODES
    assert make_plan(spread, 60, 10**6, 9.0, budget=10**6).wanted == 2
    assert make_plan(spread, 60, 30, 0.02, 10**5, queries=99, episodes=7)[:2] == (30, 7)


def test_the_half_width_asked_for_is_met():
    """In nine of ten simulated studies; a plan that takes the pilot's variance for the truth meets it in half."""
    random, wanted, met = np.random.default_rng(0), 0.012, []
    for _ in range(800):
        pilot = answers(random, PILOT_EPISODES, 100, None)
        plan = make_plan(estimate_spread(pilot), len(pilot), 10**9, wanted, budget=10**9)
        _, low, high = t_interval(simulate(random, 1, plan.episodes, plan.queries)[0] / plan.queries)
        met.append((high - low) / 2 <= wanted)
    assert np.mean(met) == pytest.approx(ASSURANCE, abs=0.03)


def test_t_interval_equals_scipy_and_covers():
    random = np.random.default_rng(0)
    values = random.random(7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((values.mean(), expected.low, expected.high))
    intervals = [t_interval(run / 20) for run in simulate(random, 4000, 30, 20)]
    inside = np.mean([low <= 0.8 <= high for _, low, high in intervals])
    assert inside == pytest.approx(0.95, abs=0.015)


LABELS = torch.arange(60) % 6


def test_episodes_are_drawn_without_replacement():
    classes, queries = torch.arange(6), torch.arange(90) % 6
    seen = []
    for number in range(60):
        episode = draw_episode(LABELS, queries, classes, 3, 2, 20, number)
        assert LABELS[episode.support].unique(return_counts=True)[1].tolist() == [2, 2, 2]
        assert len(episode.support.unique()) == 6
        assert len(episode.queries.unique()) == 20
        assert set(queries[episode.queries].tolist()) <= set(LABELS[episode.support].tolist())
        seen.append(episode)
    assert set(torch.cat([episode.support for episode in seen]).tolist()) == set(range(60))
    assert set(torch.cat([episode.queries for episode in seen]).tolist()) == set(range(90))


def test_an_episode_is_a_function_of_its_key_and_more_queries_keep_the_first():
    classes, queries = torch.arange(6), torch.arange(90) % 6
    few, many = (draw_episode(LABELS, queries, classes, 3, 2, count, "test", 4) for count in (5, 30))
    assert torch.equal(few.support, many.support)
    assert torch.equal(few.queries, many.queries[:5])
    assert not torch.equal(draw_episode(LABELS, queries, classes, 3, 2, 30, "val", 4).queries, many.queries)


def test_classes_and_pools():
    train, test = torch.tensor([0, 0, 1, 2, 2, 3, 3]), torch.tensor([0, 0, 0, 2, 2, 1, 5])
    assert classes_with(train, test, 2).tolist() == [0, 2]  # 1 has one row, 3 no query, 5 no row
    assert classes_with(train, test, 1).tolist() == [0, 1, 2]
    assert smallest_pool(test, torch.tensor([0, 1, 2]), 2) == 1 + 2


def clusters(n, classes=4, dim=6, seed=0):
    """Embeddings (n, dim) around a corner for each class, and labels, which are not 0, 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    z = torch.eye(classes, dim)[y] * 2 + torch.randn(n, dim, generator=generator)
    return LabelledEmbeddings(z, 3 * y + 1)


@pytest.fixture
def toy(tmp_path):
    """A function that makes a subject of three toy splits, its folder by name."""

    def make(name="toy", test=None):
        settings = of_subject("digits", {"tabicl.preprocessing": "rotated4", "tabicl.n_estimators": 1})[1]
        splits = {"train": clusters(40), "val": clusters(40, seed=1), "test": test or clusters(60, seed=2)}
        return Subject(tmp_path / name, settings, _embedded=splits)

    return make


@pytest.fixture
def short_pilot(monkeypatch):
    monkeypatch.setattr(module, "PILOT_EPISODES", 3)


FIXED = {"ways": 3, "queries": 8, "episodes": 4}


def test_rows_of_every_episode_and_probe(toy, short_pilot):
    subject, results = toy(), Results()
    few_shot(subject, results, **FIXED, shots=2)
    rows = results.select(context="episode")
    assert sorted((row.probe, row.draw) for row in rows) == [
        (name, draw) for name in ("linear", "tabicl") for draw in range(4)
    ]
    assert {(row.split, row.ipc, row.n_context, row.n_query) for row in rows} == {("test", 2, 6, 8)}
    assert all(results.correct([row]).mean() == row.accuracy for row in rows)
    for draw in range(4):  # paired: the same queries for both
        pair = [row for row in rows if row.draw == draw]
        assert np.array_equal(*(results.labels[row.key] for row in pair))
    assert np.mean([row.accuracy for row in rows]) > 0.5
    (pilot,) = results.select(context="pilot")
    assert (pilot.split, pilot.n_query, pilot.probe) == ("val", 3 * 30, "tabicl")
    assert (pilot.measures["ways"], pilot.measures["queries"], pilot.measures["episodes"]) == (3, 8, 4)
    assert Results.load(subject.output).rows == results.rows


def test_with_numbers_given_the_same_rows_come_again(toy, short_pilot):
    first, second = Results(), Results()
    few_shot(toy("a"), first, **FIXED)
    torch.manual_seed(3)
    few_shot(toy("b"), second, **FIXED)
    assert first.rows.keys() == second.rows.keys()
    for row in first.select(context="episode"):
        other = second.rows[row.key]
        assert (row.fingerprint, row.cross_entropy) == (other.fingerprint, other.cross_entropy)
        assert np.array_equal(first.predictions[row.key], second.predictions[row.key])


def test_a_plan_is_the_same_on_a_slower_machine(toy, short_pilot, monkeypatch):
    plans = []
    for name, pause in (("a", 0.0), ("b", 0.02)):
        fit = LinearProbe.fit
        monkeypatch.setattr(
            LinearProbe, "fit", lambda *given, fit=fit, pause=pause: (time.sleep(pause), fit(*given))[1]
        )
        results = Results()
        few_shot(toy(name), results, ways=2, half_width=0.2, probes=["linear"], budget_queries=20_000)
        plans.append(results.select(context="pilot")[0].measures)
    assert plans[0] == plans[1]


def test_a_run_that_was_cut_off_resumes_with_its_plan(toy, short_pilot, monkeypatch):
    subject = toy()
    settings = {"ways": 2, "half_width": 0.2, "probes": ["linear"]}
    fits = []
    fit = LinearProbe.fit

    def breaking(self, context, images=None):
        fits.append(len(context.y))
        if len(fits) == 3 + 6:
            raise KeyboardInterrupt
        fit(self, context)

    monkeypatch.setattr(LinearProbe, "fit", breaking)
    with pytest.raises(KeyboardInterrupt):
        few_shot(subject, Results(), **settings)
    results = Results.load(subject.output)
    assert len(results.select(context="episode")) == 5
    plan = dict(results.select(context="pilot")[0].measures)
    few_shot(subject, results, **settings)
    assert results.select(context="pilot")[0].measures == plan
    assert len(results.select(context="episode")) == plan["episodes"] >= MIN_EPISODES
    assert len(fits) == 3 + 6 + plan["episodes"] - 5
    few_shot(subject, results, **settings)
    assert len(fits) == 3 + 6 + plan["episodes"] - 5


def test_another_plan_replaces_the_episodes_of_the_same_setting_alone(toy, short_pilot):
    subject, results = toy(), Results()
    few_shot(subject, results, **FIXED)
    few_shot(subject, results, **FIXED, shots=2)
    few_shot(subject, results, ways=3, queries=5, episodes=2)
    sizes = {(row.ipc, row.n_query, row.draw) for row in results.select(context="episode", probe="tabicl")}
    assert sizes == {(1, 5, 0), (1, 5, 1), (2, 8, 0), (2, 8, 1), (2, 8, 2), (2, 8, 3)}
    keys = set(results.rows)
    assert set(results.predictions) == keys
    assert set(results.labels) == keys


def test_test_steers_nothing_and_is_in_no_context(toy, short_pilot, monkeypatch):
    clean = clusters(60, seed=2)
    train = {tuple(row.tolist()) for row in clusters(40).z}
    fit = LinearProbe.fit
    seen = []
    for test in (clean, LabelledEmbeddings(clean.z * -1e3 + 7, clean.y)):
        contexts = []

        def spy(self, context, images=None, contexts=contexts):
            contexts.append(context)
            assert {tuple(row.tolist()) for row in context.z} <= train
            fit(self, context)

        monkeypatch.setattr(LinearProbe, "fit", spy)
        results = Results()
        few_shot(toy(f"{len(seen)}", test), results, **FIXED)
        seen.append((contexts, results))
    (contexts, results), (others, other_results) = seen
    for context, other in zip(contexts, others, strict=True):
        assert torch.equal(context.z, other.z)
        assert torch.equal(context.y, other.y)
    (pilot,), (other,) = (found.select(context="pilot") for found in (results, other_results))
    assert pilot.measures == other.measures
    assert np.array_equal(results.predictions[pilot.key], other_results.predictions[pilot.key])
    assert any(row.accuracy != other_results.rows[key].accuracy for key, row in results.rows.items())


def test_ways_are_five_or_all_there_are(toy, short_pilot):
    results = Results()
    few_shot(toy(), results, queries=4, episodes=2)
    assert {row.n_context for row in results.select(context="episode")} == {4}


def test_the_plan_is_the_pilots(toy, monkeypatch):
    """Nine of ten answers are right in every episode: episodes do not differ, so all queries are worth asking."""
    monkeypatch.setattr(module, "pilot", lambda pools, probe: (np.eye(3, 10), np.zeros((3, 10))))
    results = Results()
    few_shot(toy(), results, ways=2, probes=["linear"], half_width=0.05, budget_queries=100)
    (pilot,) = results.select(context="pilot")
    assert pilot.accuracy == 0.9
    assert (pilot.measures["within"], pilot.measures["between"]) == pytest.approx((0.1, 0))
    assert {row.n_query for row in results.select(context="episode")} == {30}
    assert len(results.select(context="episode")) == MIN_EPISODES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 5}, r"--ways=5 --shots=1: only 4 classes have 1 images in train"),
        ({"shots": 11}, r"--ways=2 --shots=11: only 0 classes have 11 images in train"),
        ({"ways": 1}, r"--ways=1: an episode needs two classes at least"),
        ({"shots": 0}, r"--shots=0: must be at least 1"),
        ({"half_width": 0.0}, r"--half_width=0\.0: must be greater than 0 and finite"),
        ({"budget_queries": 0}, r"--budget_queries=0: must lie between 1 and"),
        ({"episodes": 1}, r"--episodes=1: must lie between 2 and"),
        ({"probes": ["linear_reference"]}, r"--probes=linear_reference: is fitted on images"),
        ({"probes": ["nope"]}, r"--probes=nope: unknown"),
    ],
)
def test_messages(toy, settings, message):
    with pytest.raises(UserError, match=message):
        few_shot(toy(), Results(), **settings)
