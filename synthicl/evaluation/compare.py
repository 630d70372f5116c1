"""``compare``: contexts of equal size, and all data, with every probe on the same queries."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rich.progress import track
from torch import Tensor

from synthicl import selection
from synthicl.evaluation.results import Results, Row
from synthicl.probes.probe import Probe
from synthicl.registry import registered

RANDOM_DRAWS = 50  # as in the post


class Context(NamedTuple):
    """A context set in a comparison; names as in `Row`."""

    name: str
    draw: int
    checkpoint: str
    z: Tensor
    y: Tensor


def real_contexts(z: Tensor, y: Tensor, ipc: int, draws: int = RANDOM_DRAWS) -> list[Context]:
    """Every registered builder's context from the clean training embeddings z (N, D); ``random`` is drawn often."""
    contexts = []
    for name, build in registered(selection).items():
        for draw in range(draws if name == "random" else 1):
            chosen = build(z, y, ipc, draw)
            contexts.append(Context(name, draw, "", chosen.z, chosen.y))
    return contexts


def score(probe: Probe, z: Tensor, y: Tensor, z_query: Tensor, y_query: Tensor) -> tuple[np.ndarray, dict[str, float]]:
    """Fit a probe on a context and score it.

    Returns:
        The predicted class of each query (q,), and accuracy, cross_entropy, fit_seconds, predict_seconds.
    """
    start = time.perf_counter()
    probe.fit(z, y)
    fitted = time.perf_counter()
    probabilities = probe.predict_proba(z_query)
    end = time.perf_counter()
    classes = np.unique(y.numpy())
    predictions = classes[probabilities.argmax(1)]
    truth = y_query.numpy()
    chance = np.where(classes[None] == truth[:, None], probabilities, 0).sum(1)  # 0 for a class the context lacks
    return predictions, {
        "accuracy": float((predictions == truth).mean()),
        "cross_entropy": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "fit_seconds": fitted - start,
        "predict_seconds": end - fitted,
    }


def compare(
    contexts: Iterable[Context],
    probes: Iterable[Probe],
    queries: tuple[Tensor, Tensor],
    split: str,
    seed: int,
    ipc: int,
    run: dict[str, object],
    results: Results,
) -> None:
    """Score every context with every probe and put the rows into ``results``.

    Args:
        contexts: what is compared.
        probes: with what.
        queries: embeddings (q, D) and labels (q,) of the split.
        split: ``val`` or ``test``.
        seed: of the run.
        ipc: of the run.
        run: what identifies the run.
        results: where the rows go.
    """
    z_query, y_query = queries
    results.labels[split] = y_query.numpy()
    jobs = [(context, probe) for probe in probes for context in contexts]
    for context, probe in track(jobs, f"Scoring on {split}", transient=True):
        predictions, measured = score(probe, context.z, context.y, z_query, y_query)
        protocol = probe.protocol
        row = Row(
            context=context.name,
            draw=context.draw,
            seed=seed,
            ipc=ipc,
            probe=probe.name,
            protocol=protocol.name if protocol else "",
            split=split,
            checkpoint=context.checkpoint,
            n_context=len(context.y),
            n_query=len(y_query),
            statistics=protocol.statistics if protocol else "context",
            run=run,
            **measured,
        )
        results.add(row, predictions)
