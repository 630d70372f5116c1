"""Episodes of few-shot classification: drawing them, and planning how many of what size a wanted precision takes.

An episode draws N classes, K context rows of each ("N-way K-shot"), and Q queries of these classes; a is its accuracy
over all queries it could have been asked. The mean over P episodes is an estimate by two-stage sampling,

    Var = (sigma_b^2 + S^2 (1/Q - 1/M)) / P,    S^2 = E[a (1 - a)] M / (M - 1),

with sigma_b^2 = Var(a) and M queries to draw from without replacement; for M much larger than Q it is
(sigma_b^2 + E[a (1 - a)] / Q) / P. At costs of c_e for each episode and c_q for each query it is least for

    Q* = sqrt(c_e / c_q * S^2 / (sigma_b^2 - S^2 / M)),

and for all M queries where the root has no value (W. G. Cochran, Sampling Techniques, 3rd edition, 1977, chapter 10).
The episodes draw from the same images again and again: the interval covers the drawing of episodes from these images,
not the drawing of the images (R. Lafargue et al., Oops, I Sampled it Again: Reinterpreting Confidence Intervals in
Few-Shot Learning, 2024, https://arxiv.org/abs/2409.02850).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import f as f_distribution
from scipy.stats import t as student
from torch import Tensor

from synthicl.core.randomness import keyed_generator

EPISODE_COST = 400  # queries that an episode counts as beside its own: about what fitting TabICL takes on a CPU
ASSURANCE = 0.9  # how often the interval is to be no wider than wanted
MIN_EPISODES = 30  # for a mean over episodes to be near enough to normal


class Episode(NamedTuple):
    """Which rows take part.

    Attributes:
        support: (N K,), indices of the context's rows, class after class.
        queries: (Q,), indices into the split that is asked about.
    """

    support: Tensor
    queries: Tensor


def classes_with(y_support: Tensor, y_query: Tensor, shots: int) -> Tensor:
    """Classes with ``shots`` rows at least among y_support (n,), and any among y_query (q,)."""
    classes, counts = y_support.unique(return_counts=True)
    able: Tensor = classes[(counts >= shots) & torch.isin(classes, y_query)]
    return able


def smallest_pool(y_query: Tensor, classes: Tensor, ways: int) -> int:
    """How many queries (of labels y_query (q,)) every episode of ``ways`` of the ``classes`` has to draw from."""
    counts = torch.stack([(y_query == label).sum() for label in classes])
    return int(counts.sort().values[:ways].sum())


def draw_episode(
    y_support: Tensor, y_query: Tensor, classes: Tensor, ways: int, shots: int, queries: int, *key: int | str
) -> Episode:
    """Draw an episode without replacement; a function of its arguments alone.

    Args:
        y_support: labels of the rows that contexts are drawn from, (n,).
        y_query: labels of the queries, (q,). All queries of an episode's classes are equally likely.
        classes: those that take part, see `classes_with`.
        ways: N.
        shots: K.
        queries: Q; more of the same key keep the first ones.
        key: of the random stream.
    """
    generator = keyed_generator("episode", *key)
    chosen = classes[torch.randperm(len(classes), generator=generator)[:ways]].sort().values
    support = []
    for label in chosen:
        members = (y_support == label).nonzero().flatten()
        support.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    pool = torch.isin(y_query, chosen).nonzero().flatten()
    return Episode(torch.cat(support), pool[torch.randperm(len(pool), generator=generator)[:queries]])


class Spread(NamedTuple):
    """What the variance of a mean over episodes is made of.

    Attributes:
        within: S^2, of a query's answer (right 1, wrong 0) within an episode; E[a (1 - a)] for a large M.
        between: sigma_b^2, of the episodes' accuracies over all their queries.
    """

    within: float
    between: float

    def variance(self, episodes: float, queries: float, pool: float = math.inf) -> float:
        """Variance of the mean accuracy over P episodes of Q queries out of a pool of M."""
        return (self.between + self.within * (1 / queries - 1 / pool)) / episodes


def estimate_spread(correct: np.ndarray, pool: float = math.inf) -> Spread:
    """Estimate both parts without bias, but for sigma_b^2 being no less than 0.

    Args:
        correct: (P, Q), bool, which answers were right; P and Q are 2 at least.
        pool: M, how many queries each episode drew from.
    """
    queries = correct.shape[1]
    accuracy = correct.mean(1)
    within = float((accuracy * (1 - accuracy)).mean() * queries / (queries - 1))
    return Spread(within, max(float(accuracy.var(ddof=1)) - within * (1 / queries - 1 / pool), 0.0))


class Plan(NamedTuple):
    """How a budget is spent.

    Attributes:
        queries: Q, of each episode.
        episodes: P.
        error: the standard error that is expected of the mean accuracy.
        wanted: episodes that the wanted half-width takes, see `make_plan`.
        affordable: episodes that the budget allows.
    """

    queries: int
    episodes: int
    error: float
    wanted: int
    affordable: int


def best_queries(spread: Spread, episode_cost: float, query_cost: float, pool: int) -> int:
    """Q*, rounded, from 1 to all queries of the pool (M); both costs in the same unit."""
    rest = spread.between - spread.within / pool
    if rest <= 0:
        return pool
    return min(max(round(math.sqrt(episode_cost / query_cost * spread.within / rest)), 1), pool)


def make_plan(
    spread: Spread,
    pilot: int,
    pool: int,
    half_width: float,
    budget: int,
    queries: int | None = None,
    episodes: int | None = None,
) -> Plan:
    """Plan episodes: as many as the half-width takes or as the budget allows, whichever is less.

    The pilot's variance is itself an estimate. Its ratio to the variance that the episodes will show has an F
    distribution, whose quantile of `ASSURANCE` takes the place of 1: so often the interval is no wider than wanted (L.
    L. Kupper and K. B. Hafner, "How Appropriate Are Popular Sample Size Formulas?", American Statistician 43, 1989).

    Args:
        spread: as a pilot estimated it.
        pilot: episodes that it is estimated from.
        pool: M, the most queries an episode can have.
        half_width: wanted of the 95 % interval.
        budget: queries of all episodes together, each of which costs `EPISODE_COST` beside its own. `MIN_EPISODES` are
            run in any case.
        queries: Q, where it is given.
        episodes: P, where it is given.
    """
    queries = min(queries or best_queries(spread, EPISODE_COST, 1, pool), pool)
    affordable = int(budget / (EPISODE_COST + queries))

    def half(number: int) -> float:
        variance = spread.variance(number, queries, pool) * f_distribution.ppf(ASSURANCE, number - 1, pilot - 1)
        return float(student.ppf(0.975, number - 1) * math.sqrt(variance))

    wanted, enough = 2, 2
    while half(enough) > half_width:
        wanted, enough = enough + 1, 2 * enough
    wanted += bisect_left(range(wanted, enough), True, key=lambda number: half(number) <= half_width)
    episodes = episodes or max(min(wanted, affordable), MIN_EPISODES)
    return Plan(queries, episodes, math.sqrt(spread.variance(episodes, queries, pool)), wanted, affordable)
