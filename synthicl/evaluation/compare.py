"""``compare``: contexts of equal size, and all data, with every probe on the same queries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from rich.progress import track
from torch import Tensor

from synthicl import selection
from synthicl.evaluation.results import Results, Row
from synthicl.probes.probe import Probe
from synthicl.registry import registered


class Context(NamedTuple):
    """A context set in a comparison; names as in `Row`."""

    name: str
    draw: int
    checkpoint: str
    z: Tensor
    y: Tensor


def real_contexts(z: Tensor, y: Tensor, ipc: int, draws: int) -> list[Context]:
    """Every registered builder's context from the clean training embeddings z (N, D); ``random`` is drawn often."""
    contexts = []
    for name, build in registered(selection).items():
        for draw in range(draws if name == "random" else 1):
            chosen = build(z, y, ipc, draw)
            contexts.append(Context(name, draw, "", chosen.z, chosen.y))
    return contexts


def score(probe: Probe, z_query: Tensor, y_query: Tensor, classes: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Score a fitted probe.

    Args:
        probe: fitted on a context.
        z_query: (q, D).
        y_query: (q,).
        classes: sorted class indices of the context.

    Returns:
        The predicted class of each query (q,), and accuracy, cross_entropy, predict_seconds.
    """
    start = time.perf_counter()
    probabilities = probe.predict_proba(z_query)
    seconds = time.perf_counter() - start
    predictions = classes[probabilities.argmax(1)]
    truth = y_query.numpy()
    chance = np.where(classes[None] == truth[:, None], probabilities, 0).sum(1)  # 0 for a class the context lacks
    return predictions, {
        "accuracy": float((predictions == truth).mean()),
        "cross_entropy": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "predict_seconds": seconds,
    }


def compare(
    contexts: Iterable[Context],
    probes: Iterable[Probe],
    queries: Mapping[str, tuple[Tensor, Tensor]],
    seed: int,
    ipc: int,
    run: dict[str, object],
    results: Results,
) -> None:
    """Fit every probe on every context, score it on every split, and put the rows into ``results``.

    Args:
        contexts: what is compared.
        probes: with what.
        queries: embeddings (q, D) and labels (q,) by split.
        seed: of the run.
        ipc: of the run.
        run: what identifies the run.
        results: where the rows go.
    """
    for split, (_, y_query) in queries.items():
        results.labels[split] = y_query.numpy()
    jobs = [(context, probe) for probe in probes for context in contexts]
    for context, probe in track(jobs, "Scoring contexts", transient=True):
        protocol = probe.protocol
        start = time.perf_counter()
        probe.fit(context.z, context.y)
        fit_seconds = time.perf_counter() - start
        for split, (z_query, y_query) in queries.items():
            predictions, measured = score(probe, z_query, y_query, np.unique(context.y.numpy()))
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
                fit_seconds=fit_seconds,
                statistics=protocol.statistics if protocol else "context",
                run=run,
                **measured,
            )
            results.add(row, predictions)
