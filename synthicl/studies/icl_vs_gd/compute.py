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

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.linear_probe import probe_gradient
from synthicl.probes.probe import Probe
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.compare.compute import QUERY_SPLITS, real_contexts, synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Context, Scorer
from synthicl.studies.subject import Subject
from synthicl.tabicl.differentiable import preprocess, varying
from synthicl.tabicl.preprocessing import Preprocessing

CURVES = (
    "icl-vs-gd/curves/"  # arrays (3, L, K): k lr, agreement, squared difference of L rates after K numbers of steps
)
RECORDED = 60  # numbers of steps, evenly spaced in log k, after which predictions are compared
OTHER_SEED = 43  # of the ensemble's shuffles, for TabICL against itself; the deployed one's is 42


def icl_vs_gd(
    subject: Subject,
    results: Results,
    contexts: Sequence[str] = ("random", "centroid"),
    random_draws: int = 5,
    learning_rates: Sequence[float] = (0.01, 0.1, 1.0),
    steps: int = 3000,
) -> None:
    """Compare TabICL's predictions with those of gradient descent on a linear probe, on the same context rows.

    val chooses learning rate and number of steps, by the squared difference of probabilities, and test is scored at
    that choice. Labels of queries play no part in it.

    Args:
        subject: what is evaluated.
        results: where rows and curves go.
        contexts: which real contexts (names as in synthicl/coresets); the synthetic one always takes part.
        random_draws: how many contexts are drawn at random.
        learning_rates: of gradient descent.
        steps: most steps of gradient descent.

    Raises:
        UserError: no steps, or no learning rate, or one that is not positive.
    """
    if steps < 1:
        raise UserError(f"--steps={steps}: has to be 1 at least.")
    if not learning_rates or min(learning_rates) <= 0:
        raise UserError("--learning_rates: give at least one, and only positive ones, for example 0.01,0.1,1.")
    queries = {split: subject.embedded(split) for split in QUERY_SPLITS}
    results.labels |= {split: asked.y.numpy() for split, asked in queries.items()}
    synthetic = list(synthetic_contexts(subject))[:1]
    scorer = subject.scorer("icl-vs-gd", results)
    settings = {"learning_rates": list(learning_rates), "steps": steps}
    scorer.run = scorer.run | settings
    # Rows of other settings do not belong into one table with these.
    results.drop([row for row in results.of("icl-vs-gd").rows.values() if not settings.items() <= row.run.items()])
    setting = (subject.preprocessing, subject.checkpoint, subject.device)
    tabicl, other = KeepingTabICL(*setting), TabICLProbe(*setting, random_state=OTHER_SEED)
    descent = GradientDescent(subject.preprocessing, tabicl.classifier().outlier_threshold)
    with scorer.saving() as saved:
        jobs = [*real_contexts(subject, subject.ipc, random_draws, contexts), *synthetic]
        for context in track(jobs, "Following gradient descent", transient=True):
            rows = [scorer.row(context, probe, *query) for probe in (tabicl, descent) for query in queries.items()]
            if not all(map(results.has, rows)):
                _compare(context, tabicl, other, descent, queries, scorer, learning_rates, steps)
                saved()


class KeepingTabICL(TabICLProbe):
    """TabICL that keeps its last probabilities, (q, C): they are scored, and compared with others."""

    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities; see `Probe`."""
        self.probabilities = super().predict_proba(z)
        return self.probabilities


class GradientDescent(Probe):
    """A softmax probe after some steps of gradient descent, in TabICL's space.

    Args:
        preprocessing: TabICL's.
        threshold: standard deviations beyond which TabICL's preprocessing pulls values in.

    Attributes:
        learning_rate: lr.
        steps: k.
    """

    name = "gradient_descent"
    learning_rate = 1.0
    steps = 0

    def __init__(self, preprocessing: Preprocessing, threshold: float) -> None:
        self.preprocessing: Preprocessing = preprocessing
        self.threshold = threshold

    def fit(self, z: Tensor, y: Tensor, images: Tensor | None = None) -> None:
        """Keep the rows: what queries are standardised with is only known with them; see `Probe`."""
        self.z = z
        self.classes, self.labels = y.unique(return_inverse=True)

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
        while True:
            yield weight, bias
            grad_weight, grad_bias = probe_gradient(context, self.labels, weight, bias)
            weight, bias = weight - learning_rate * grad_weight, bias - learning_rate * grad_bias

    def predict_proba(self, z: Tensor) -> np.ndarray:
        """Class probabilities; see `Probe`."""
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
    descent: GradientDescent, z: Tensor, target: np.ndarray, learning_rates: Sequence[float], steps: Sequence[int]
) -> np.ndarray:
    """Follow gradient descent past TabICL's probabilities ``target`` (q, C) of z (q, D); see `CURVES`."""
    found = [
        [
            (k * rate, agreement(p, target), squared_difference(p, target))
            for k, p in zip(steps, descent.path(z, rate, steps), strict=True)
        ]
        for rate in learning_rates
    ]
    return np.array(found).transpose(2, 0, 1)


def _compare(
    context: Context,
    tabicl: KeepingTabICL,
    other: TabICLProbe,
    descent: GradientDescent,
    queries: dict[str, LabelledEmbeddings],
    scorer: Scorer,
    learning_rates: Sequence[float],
    most: int,
) -> None:
    """Put the rows of TabICL, of gradient descent at its best, and its curves into the results, for each split."""
    classes = context.y.unique().numpy()
    for probe in (tabicl, other, descent):
        probe.fit(context.z, context.y)
    steps = recorded_steps(most)
    targets, followed = {}, {}
    for split, embedded in queries.items():
        predictions, measured = score(tabicl, embedded, classes)
        targets[split] = tabicl.probabilities
        again = other.predict_proba(embedded.z)
        itself = {
            "self_agreement": agreement(again, targets[split]),
            "self_squared_difference": squared_difference(again, targets[split]),
        }
        row = scorer.row(context._replace(measures=itself), tabicl, split, embedded, **measured)
        scorer.results.add(row, predictions)
        followed[split] = curves(descent, embedded.z, targets[split], learning_rates, steps)
    rate, k = np.unravel_index(followed["val"][2].argmin(), followed["val"][2].shape)
    descent.learning_rate, descent.steps = learning_rates[rate], steps[k]
    for split, embedded in queries.items():
        predictions, measured = score(descent, embedded, classes)
        measures = {
            "steps": descent.steps,
            "learning_rate": descent.learning_rate,
            "agreement": float(followed[split][1, rate, k]),
            "squared_difference": float(followed[split][2, rate, k]),
        }
        row = scorer.row(context._replace(measures=measures), descent, split, embedded, **measured)
        scorer.results.add(row, predictions)
        scorer.results.arrays[CURVES + row.key] = followed[split]
