r"""``icl-vs-gd``: does TabICL predict what a linear probe predicts after some steps of gradient descent?

That learning in context can be gradient descent on a linear model was shown for transformers trained on regression:
J. von Oswald et al., "Transformers learn in-context by gradient descent", ICML 2023, https://arxiv.org/abs/2212.07677;
E. Akyürek et al., "What learning algorithm is in-context learning?", ICLR 2023, https://arxiv.org/abs/2211.15661.
Here it is asked of a pre-trained TabICL, about classification: a softmax probe starts at W = 0, b = 0 and takes steps

    W <- W - lr grad_W,    b <- b - lr grad_b

with the full-batch gradient of `synthicl.objectives.linear_probe` on the context rows. Steps of different size are
compared by k lr, the time that passes in the gradient flow: small steps fall onto one curve.

The probe sees what TabICL sees: the preprocessing's columns that vary in the context, standardised and clipped with the
context's statistics by TabICL's own preprocessing, as those members of its ensemble see them that have no power
transform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from synthicl.core.errors import UserError, check_between
from synthicl.core.settings import MAX_DRAWS
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.linear_probe import descend
from synthicl.probes.knn import KNNProbe
from synthicl.probes.linear import LinearProbe
from synthicl.probes.probe import Probe
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.contexts import QUERY_SPLITS, real_contexts, synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Extra, Job
from synthicl.studies.subject import Subject
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.differentiable import preprocess, varying
from synthicl.tabicl.preprocessing import Preprocessing

CURVES = "icl-vs-gd/curves/"  # (3, L, K): k lr, agreement, squared difference of L rates after K numbers of steps
MAX_STEPS = 10_000_000
RECORDED = 60  # numbers of steps, evenly spaced in log k, after which predictions are compared
OTHER_SEED = 43  # of the ensemble's shuffles, for TabICL against itself; the deployed one's is 42


def icl_vs_gd(
    subject: Subject,
    results: Results,
    contexts: Sequence[str] = ("random", "centroid"),
    random_draws: int = 5,
    learning_rates: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
    steps: int = 10_000,
    ipc: int | None = None,
) -> None:
    """Compare TabICL's predictions with those of gradient descent on a linear probe, on the same context rows.

    val chooses learning rate and number of steps, by the squared difference of probabilities, and test is scored at
    that choice. Labels of queries play no part in it. What agreement is worth is told by rules that nobody fits to
    TabICL: the first gradient step, untuned logistic regression and the nearest row, on the same context.

    Args:
        subject: what is evaluated.
        results: where rows and curves go.
        contexts: which real contexts (names as in synthicl/coresets); the synthetic one always takes part. Rules
            differ most on random and hard_pairs.
        random_draws: how many contexts are drawn at random.
        learning_rates: of gradient descent.
        steps: most steps of gradient descent.
        ipc: rows per class of real contexts; None for the context set's own.

    Raises:
        UserError: no steps, or no learning rate, or one that is not positive.
    """
    check_between(1, MAX_STEPS, "--", steps=steps)
    check_between(1, MAX_DRAWS, "--", random_draws=random_draws)
    if not learning_rates or not all(0 < rate < math.inf for rate in learning_rates):
        raise UserError("--learning_rates: give at least one, and only positive ones, for example 0.01,0.1,1.")
    queries = {split: subject.embedded(split) for split in QUERY_SPLITS}
    settings = {"learning_rates": list(learning_rates), "steps": steps}
    # Rows of other settings do not belong into one table with these.
    results.drop([row for row in results.of("icl-vs-gd").rows.values() if not settings.items() <= row.run.items()])
    tabicl = TabICLTwice(subject.deployment, subject.device)
    descent = FollowedDescent(tabicl, queries, learning_rates, steps)
    space = descent.preprocessing, descent.threshold
    rules = [
        GradientDescent(*space, name="first_step", steps=1),
        RuleInSpace(*space, LinearProbe()),
        RuleInSpace(*space, KNNProbe(most=1, name="nearest_row")),
    ]
    per_class = ipc or subject.ipc
    groups = [
        (per_class, real_contexts(subject, per_class, random_draws, contexts)),
        (subject.ipc, list(synthetic_contexts(subject))[:1]),
    ]

    def measure(job: Job, split: str, predictions: np.ndarray, probabilities: np.ndarray) -> Extra:
        if job.probe is descent:
            return descent.noted(split)
        if job.probe is not tabicl:
            return Extra()
        once, again = (probe.predict_proba(queries[split].z) for probe in (tabicl, tabicl.other))
        return Extra(
            {"self_agreement": agreement(again, once), "self_squared_difference": squared_difference(again, once)}
        )

    for rows, compared in groups:
        scorer = subject.scorer("icl-vs-gd", results, ipc=rows)
        scorer.run = scorer.run | settings
        jobs = [Job(context, probe) for context in compared for probe in (tabicl, descent, *rules)]
        scorer.score(jobs, queries, "Following gradient descent", measure)


class TabICLTwice(TabICLProbe):
    """TabICL, and beside it TabICL with other shuffles. It is fitted once on a context, and answers a question once.

    Attributes:
        other: the one with other shuffles, fitted on the same context.
    """

    def __init__(self, deployment: Deployment, device: torch.device | str) -> None:
        super().__init__(deployment, device)
        self.other = TabICLProbe(deployment, device, random_state=OTHER_SEED)
        self._context: LabelledEmbeddings | None = None
        self._answers: list[tuple[Tensor, np.ndarray]] = []

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        if context is not self._context:
            super().fit(context)
            self.other.fit(context)
            self._context, self._answers = context, []

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        for asked, answer in self._answers:
            if asked is z:
                return answer
        self._answers.append((z, super().predict_proba(z)))
        return self._answers[-1][1]


class GradientDescent(Probe):
    """A softmax probe after some steps of gradient descent, in TabICL's space.

    Args:
        preprocessing: TabICL's.
        threshold: standard deviations beyond which TabICL's preprocessing pulls values in.
        name: its word in results.json.
        learning_rate: lr; where classes have as many rows, those of the first step do not depend on it.
        steps: k.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        threshold: float,
        name: str = "gradient_descent",
        learning_rate: float = 1.0,
        steps: int = 0,
    ) -> None:
        self.preprocessing: Preprocessing = preprocessing
        self.threshold = threshold
        self.name = name
        self.learning_rate = learning_rate
        self.steps = steps

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        """Keep the rows: what queries are standardised with is only known with them."""
        self.z = context.z
        self.classes, self.labels = context.y.unique(return_inverse=True)

    def columns(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Context (n, k) and queries (q, k) as TabICL's members without a power transform see them, float64."""
        context, queries = (self.preprocessing(rows)[None].double() for rows in (self.z, z))
        kept = varying(context)[0]
        context, queries = preprocess(context, queries, power=False, threshold=self.threshold)
        return context[0, :, kept], queries[0, :, kept]

    def heads(self, context: Tensor, learning_rate: float) -> Iterator[tuple[Tensor, Tensor]]:
        """W (C, k) and b (C,) after 0, 1, 2, ... steps on the context's columns (n, k), without end."""
        weight = torch.zeros(len(self.classes), context.shape[1], dtype=context.dtype)
        bias = torch.zeros(len(self.classes), dtype=context.dtype)
        return descend(context, self.labels, weight, bias, learning_rate)

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        context, queries = self.columns(z)
        weight, bias = next(islice(self.heads(context, self.learning_rate), self.steps, None))
        probabilities: np.ndarray = (queries @ weight.T + bias).softmax(-1).numpy()
        return probabilities

    def path(self, z: Tensor, learning_rate: float, steps: Sequence[int]) -> Iterator[np.ndarray]:
        """Class probabilities of z (q, D) after each of ``steps``, which ascend."""
        context, queries = self.columns(z)
        for k, (weight, bias) in enumerate(islice(self.heads(context, learning_rate), steps[-1] + 1)):
            if k in steps:
                yield (queries @ weight.T + bias).softmax(-1).numpy()


class RuleInSpace(GradientDescent):
    """Another probe on the columns that gradient descent sees, in place of the descent.

    Args:
        preprocessing: TabICL's.
        threshold: likewise.
        rule: the probe.
    """

    def __init__(self, preprocessing: Preprocessing, threshold: float, rule: Probe) -> None:
        super().__init__(preprocessing, threshold, rule.name)
        self.rule = rule

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        context, queries = self.columns(z)
        self.rule.fit(LabelledEmbeddings(context, self.labels))
        return self.rule.predict_proba(queries)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of queries that two sets of probabilities (q, C) give the same class."""
    return float((first.argmax(1) == second.argmax(1)).mean())


def squared_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over queries of the squared distance of two probability vectors, (q, C) each: 0 to 2."""
    return float(((first - second) ** 2).sum(1).mean())


def recorded_steps(most: int) -> list[int]:
    """0, 1, and on to ``most``, evenly spaced in log k as far as integers are."""
    return [0, *np.unique(np.geomspace(1, most, RECORDED).round().astype(int)).tolist()]


def curves(
    descent: GradientDescent, z: Tensor, tabicl: np.ndarray, learning_rates: Sequence[float], steps: Sequence[int]
) -> np.ndarray:
    """Follow gradient descent past TabICL's probabilities ``tabicl`` (q, C) of z (q, D): what `CURVES` holds."""
    found = [
        [
            (k * rate, agreement(p, tabicl), squared_difference(p, tabicl))
            for k, p in zip(steps, descent.path(z, rate, steps), strict=True)
        ]
        for rate in learning_rates
    ]
    return np.array(found).transpose(2, 0, 1)


class FollowedDescent(GradientDescent):
    """Gradient descent that stops where it is nearest to TabICL on val, by the squared difference of probabilities.

    Args:
        tabicl: what it is compared with; it is fitted on the same context.
        queries: by split, val among them.
        learning_rates: that are tried.
        most: steps.
    """

    def __init__(
        self,
        tabicl: TabICLTwice,
        queries: Mapping[str, LabelledEmbeddings],
        learning_rates: Sequence[float],
        most: int,
    ) -> None:
        super().__init__(tabicl.preprocessing, tabicl.classifier().outlier_threshold)
        self.tabicl = tabicl
        self.queries = queries
        self.learning_rates = learning_rates
        self.recorded = recorded_steps(most)

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        """Follow gradient descent on all splits, and choose learning rate and number of steps on val."""
        super().fit(context)
        self.tabicl.fit(context)
        self.followed = {
            split: curves(self, asked.z, self.tabicl.predict_proba(asked.z), self.learning_rates, self.recorded)
            for split, asked in self.queries.items()
        }
        difference = self.followed["val"][2]
        self.rate, self.k = np.unravel_index(difference.argmin(), difference.shape)
        self.learning_rate, self.steps = self.learning_rates[self.rate], self.recorded[self.k]

    def noted(self, split: str) -> Extra:
        """What was chosen, how near it comes to TabICL on a split, and the curves there."""
        followed = self.followed[split]
        largest = len(self.learning_rates) > 1 and self.rate == len(self.learning_rates) - 1
        measures = {
            "on_edge": float(largest or self.k == len(self.recorded) - 1),  # a wider grid may come nearer
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "agreement": float(followed[1, self.rate, self.k]),
            "squared_difference": float(followed[2, self.rate, self.k]),
        }
        return Extra(measures, {"curves": followed})
