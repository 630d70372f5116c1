"""What a fitted probe is worth: accuracy and cross-entropy on queries."""

from __future__ import annotations

import time

import numpy as np

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe


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
    predictions = classes[probabilities.argmax(1)]
    truth = queries.y.numpy()
    chance = np.where(classes[None] == truth[:, None], probabilities, 0).sum(1)  # 0 for a class the context lacks
    return predictions, {
        "accuracy": float((predictions == truth).mean()),
        "cross_entropy": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "predict_seconds": seconds,
    }
