"""``few-shot``: accuracy over N-way K-shot episodes, with an interval, for a budget that is spent by a plan.

Contexts are drawn from train and queries from test. A pilot asks about val, so that nothing about test steers the plan;
the mathematics stands in `synthicl.studies.few_shot.episodes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from synthicl.core.errors import UserError, check_at_least, check_between, check_positive
from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint
from synthicl.probes import probe_factory
from synthicl.probes.probe import Probe
from synthicl.probes.score import score
from synthicl.studies.few_shot.episodes import (
    Episode,
    classes_with,
    draw_episode,
    estimate_spread,
    make_plan,
    smallest_pool,
)
from synthicl.studies.results import Results, Row
from synthicl.studies.scoring import Context, Job, Scorer
from synthicl.studies.subject import Subject

PILOT_EPISODES = 60  # with 20 the plan would need half as many episodes more, to make up for not knowing the variance
MAX_EPISODES = 1_000_000
MAX_QUERIES = 10**12
PILOT_QUERIES = 100  # with 10 their own noise hides the variance between episodes, and they cost little beside a fit


def few_shot(
    subject: Subject,
    results: Results,
    ways: int | None = None,
    shots: int = 1,
    half_width: float = 0.01,
    budget_queries: int = 500_000,
    probes: Sequence[str] = ("tabicl", "linear"),
    queries: int | None = None,
    episodes: int | None = None,
) -> None:
    """Score TabICL over few-shot episodes, as many and as large as a pilot shows to be best, beside another probe.

    Args:
        subject: what is evaluated.
        results: where rows go.
        ways: classes of an episode; None for five, or all if there are fewer.
        shots: context rows of each class.
        half_width: wanted of the 95 % interval of the first probe's mean accuracy.
        budget_queries: most queries of all episodes together; an episode counts as 400 beside its own. Seconds are no
            part of the plan, so every machine makes the same.
        probes: classifiers; each is given the same episodes, and the first decides on the plan.
        queries: of each episode in place of the plan's number.
        episodes: in place of the plan's number.

    Raises:
        UserError: a setting is out of range, or there are too few classes.
    """
    check_at_least(1, "--", shots=shots, queries=queries)
    check_between(2, MAX_EPISODES, "--", episodes=episodes)  # an interval takes two
    check_positive("--", half_width=half_width)
    check_between(1, MAX_QUERIES, "--", budget_queries=budget_queries)
    pools = Pools.of(subject, ways, shots)
    made = [probe_factory(name)(subject.probe_setting()) for name in probes]
    for probe in made:
        if probe.needs_images:
            raise UserError(f"--probes={probe.name}: is fitted on images, and episodes are made of embeddings.")
    scorer = subject.scorer("few-shot", results, ipc=shots)
    plan = planned(scorer, pools, made, half_width, budget_queries, queries, episodes)
    count = int(plan["episodes"])
    jobs = episode_jobs(pools, made, count, int(plan["queries"]))
    scorer.score(jobs, what="Scoring episodes", total=count * len(made))


class Pools(NamedTuple):
    """What episodes are drawn from.

    Attributes:
        splits: embeddings of train, val and test.
        ways: classes of an episode.
        shots: context rows of each class.
    """

    splits: dict[str, LabelledEmbeddings]
    ways: int
    shots: int

    @classmethod
    def of(cls, subject: Subject, ways: int | None, shots: int) -> Pools:
        """The subject's pools.

        Raises:
            UserError: there are too few classes.
        """
        pools = cls({split: subject.embedded(split) for split in ("train", "val", "test")}, ways or 0, shots)
        most = min(len(pools.classes("val")), len(pools.classes("test")))
        if ways is not None and ways < 2:
            raise UserError(f"--ways={ways}: an episode needs two classes at least.")
        if most < (ways or 2):
            raise UserError(
                f"--ways={ways or 2} --shots={shots}: only {most} classes have {shots} images in train and any in val "
                "and test."
            )
        return pools._replace(ways=ways or min(5, most))

    def classes(self, split: str) -> Tensor:
        """Classes that can take part in episodes that ask about a split."""
        return classes_with(self.splits["train"].y, self.splits[split].y, self.shots)

    def size(self, split: str) -> int:
        """How many queries every episode can draw from."""
        return smallest_pool(self.splits[split].y, self.classes(split), self.ways)

    def draw(self, split: str, number: int, queries: int) -> Episode:
        """The episode of a number that asks about a split."""
        labels = self.splits["train"].y, self.splits[split].y
        return draw_episode(*labels, self.classes(split), self.ways, self.shots, queries, split, number)

    def rows(self, split: str, episode: Episode) -> tuple[LabelledEmbeddings, LabelledEmbeddings]:
        """Context and queries of an episode."""
        return self.splits["train"].at(episode.support), self.splits[split].at(episode.queries)


def episode_jobs(pools: Pools, probes: Sequence[Probe], episodes: int, queries: int) -> Iterator[Job]:
    """Every probe on every episode that asks about test; an episode is drawn when it is needed."""
    for number in range(episodes):
        support, asked = pools.rows("test", pools.draw("test", number, queries))
        context = Context("episode", number, "", support)
        yield from (Job(context, probe, {"test": asked}) for probe in probes)


def planned(
    scorer: Scorer,
    pools: Pools,
    probes: Sequence[Probe],
    half_width: float,
    budget: int,
    queries: int | None,
    episodes: int | None,
) -> dict[str, float]:
    """The plan, from results if it was made before for the same data and settings; else after a pilot.

    It stands in results as the measures of a row ``pilot``, so that a run that was cut off resumes with the same plan.
    """
    asked = [pools.ways, pools.shots, half_width, budget, queries or 0, episodes or 0]
    train, val, test = (pools.splits[split] for split in ("train", "val", "test"))
    row = replace(
        scorer.row(Context("pilot", 0, "", train), probes[0], "val", val),
        n_context=pools.ways * pools.shots,
        fingerprint=fingerprint(train.z, train.y, val.z, val.y, test.y, torch.tensor(asked, dtype=torch.float64)),
    )
    if scorer.results.has(row):
        return scorer.results.rows[row.key].measures
    forget_episodes(scorer.results, row)
    predictions, labels = pilot(pools, probes[0])
    correct = predictions == labels
    spread = estimate_spread(correct, pools.size("val"))
    plan = make_plan(spread, len(correct), pools.size("test"), half_width, budget, queries, episodes)
    measures = {
        "ways": pools.ways,
        "shots": pools.shots,
        "within": spread.within,
        "between": spread.between,
        "pool": pools.size("test"),
        "half_width": half_width,
        "budget_queries": budget,
        "asked": float(queries is not None or episodes is not None),
        "pilot_episodes": len(correct),
        "pilot_queries": correct.shape[1],
        "pilot_pool": pools.size("val"),
        **plan._asdict(),
    }
    row = replace(row, accuracy=float(correct.mean()), n_query=correct.size, measures=measures)
    scorer.results.add(row, predictions.ravel(), labels=labels.ravel())
    return measures


def pilot(pools: Pools, probe: Probe) -> tuple[np.ndarray, np.ndarray]:
    """Ask queries about val in a few episodes: the classes that the probe predicts and the true ones, (P, Q) each."""
    count = min(PILOT_QUERIES, pools.size("val"))
    predictions, labels = [], []
    for number in track(range(PILOT_EPISODES), "Pilot episodes on val", transient=True):
        support, queries = pools.rows("val", pools.draw("val", number, count))
        probe.fit(support)
        predictions.append(score(probe, queries, support.y.unique().numpy())[0])
        labels.append(queries.y.numpy())
    return np.stack(predictions), np.stack(labels)


def forget_episodes(results: Results, pilot_row: Row) -> None:
    """Drop pilot and episodes of an earlier plan for the same ways and shots."""
    size = {"ipc": pilot_row.ipc, "n_context": pilot_row.n_context}
    results.drop(results.select(command="few-shot", seed=pilot_row.seed, **size))
