"""What a fitted probe is worth: accuracy and cross-entropy on queries."""

from __future__ import annotations

import time

import numpy as np

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe


def fit_and_score(
    probe: Probe, context: LabelledEmbeddings, queries: LabelledEmbeddings
) -> tuple[np.ndarray, dict[str, float]]:
    """Fit a probe that needs no images on a context and `score` it; the measures have fit_seconds as well."""
    start = time.perf_counter()
    probe.fit(context)
    seconds = time.perf_counter() - start
    predictions, measured = score(probe, queries, context.y.unique().numpy())
    return predictions, measured | {"fit_seconds": seconds}


def score(probe: Probe, queries: LabelledEmbeddings, classes: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Score a fitted probe.

    Args:
        probe: fitted on a context.
        queries: q embeddings.
        classes: sorted class indices of the context.

    Returns:
        The predicted class of each query (q,), and accuracy, cross_entropy, predict_seconds.
    """
    start = time.perf_counter()
    probabilities = probe.predict_proba(queries.z)
    seconds = time.perf_counter() - start
    predictions, measured = judge(probabilities, queries, classes)
    return predictions, measured | {"predict_seconds": seconds}


def judge(
    probabilities: np.ndarray, queries: LabelledEmbeddings, classes: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """What probabilities (q, C) of the ``classes`` (C,) are worth: predicted classes (q,), accuracy, cross_entropy."""
    predictions = classes[probabilities.argmax(1)]
    truth = queries.y.numpy()
    chance = chance_of_truth(probabilities, truth, classes)
    return predictions, {
        "accuracy": float((predictions == truth).mean()),
        "cross_entropy": float(-np.log(np.maximum(chance, 1e-12)).mean()),
    }


def chance_of_truth(probabilities: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The probability that each query's own class was given, (q,): 0 for a class that the context lacks."""
    chance: np.ndarray = np.where(classes[None] == truth[:, None], probabilities, 0).sum(1)
    return chance
