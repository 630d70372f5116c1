"""Scoring contexts with probes: what all commands share. A row that was measured before is not measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track
from torch import Tensor

from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint
from synthicl.probes.probe import Probe, SoftLabelProbe
from synthicl.probes.score import score
from synthicl.studies.results import Results, Row

SAVE_EVERY = 20.0  # seconds between two times that results are saved while a command runs


class Context(NamedTuple):
    """A context set in an evaluation; names as in `Row`.

    Attributes:
        name: which context.
        draw: number of a random draw.
        checkpoint: of a synthetic context.
        z: (n, D).
        y: (n,).
        images: reads its images, (n, 3, S, S), uint8, for probes that look at them; None for vectors.
        measures: what the command notes about it.
        targets: (n, C), soft labels, for probes that can use them.
    """

    name: str
    draw: int
    checkpoint: str
    z: Tensor
    y: Tensor
    images: Callable[[], Tensor] | None = None
    measures: Mapping[str, float] = {}
    targets: Tensor | None = None


@dataclass
class Scorer:
    """Puts rows into results.

    Attributes:
        results: where rows go.
        folder: where results are saved while a command runs and at its end; None keeps them in memory.
        command: the command of ``evaluate.py``.
        seed: of the run.
        ipc: of the run.
        run: what identifies the run.
        backbone: whose embeddings are scored.
        subject: fingerprint of what is evaluated.
        made_by: the command line.
    """

    results: Results
    folder: Path | None
    command: str
    seed: int
    ipc: int
    run: dict[str, Any]
    backbone: str
    subject: str = ""
    made_by: str = ""

    def score(
        self,
        jobs: Iterable[tuple[Context, Probe]],
        queries: Mapping[str, LabelledEmbeddings],
        what: str = "Scoring contexts",
    ) -> None:
        """Fit every probe on its context and score it on every split; what is there already is passed over.

        Args:
            jobs: contexts with the probes they are given to.
            queries: by split.
            what: text of the progress bar.
        """
        for split, asked in queries.items():
            self.results.labels[split] = asked.y.numpy()
        with self.saving() as saved:
            for context, probe in track(list(jobs), what, transient=True):
                self._score(context, probe, queries)
                saved()

    @contextmanager
    def saving(self) -> Iterator[Callable[[], None]]:
        """Save results every now and then, when the function given is called, and at the end, even that of an error."""
        last = time.monotonic()

        def now_and_then() -> None:
            nonlocal last
            if self.folder is not None and time.monotonic() - last > SAVE_EVERY:
                self.results.save(self.folder)
                last = time.monotonic()

        try:
            yield now_and_then
        finally:
            if self.folder is not None:
                self.results.save(self.folder)

    def row(self, context: Context, probe: Probe, split: str, queries: LabelledEmbeddings, **measured: Any) -> Row:
        """A row about a context, without what is not measured yet."""
        preprocessing = probe.preprocessing
        values: dict[str, Any] = {"accuracy": 0.0, "cross_entropy": 0.0, "fit_seconds": 0.0, "predict_seconds": 0.0}
        members: dict[str, Any] = {"n_estimators": preprocessing.n_estimators} if preprocessing else {}
        if probe.weights:
            members["weights"] = probe.weights
        statistics = (preprocessing.mean, preprocessing.projection) if preprocessing else ()
        return Row(
            command=self.command,
            context=context.name,
            draw=context.draw,
            seed=self.seed,
            ipc=self.ipc,
            probe=probe.name,
            preprocessing=preprocessing.name if preprocessing else "",
            split=split,
            checkpoint=context.checkpoint,
            n_context=len(context.y),
            n_query=len(queries.y),
            statistics=preprocessing.statistics if preprocessing else "context",
            backbone=self.backbone,
            measures=dict(context.measures),
            run=self.run | members,
            subject=self.subject,
            fingerprint=fingerprint(context.z, context.y, queries.z, queries.y, context.targets, *statistics),
            made_by=self.made_by,
            **(values | measured),
        )

    def _score(self, context: Context, probe: Probe, queries: Mapping[str, LabelledEmbeddings]) -> None:
        missing = {
            split: embedded
            for split, embedded in queries.items()
            if not self.results.has(self.row(context, probe, split, embedded))
        }
        if not missing:
            return
        start = time.perf_counter()
        if context.targets is not None and isinstance(probe, SoftLabelProbe):
            probe.fit_soft(context.z, context.targets)
        else:
            probe.fit(context.z, context.y, context.images() if probe.needs_images and context.images else None)
        fit_seconds = time.perf_counter() - start
        for split, embedded in missing.items():
            predictions, measured = score(probe, embedded, np.unique(context.y.numpy()))
            self.results.add(
                self.row(context, probe, split, embedded, fit_seconds=fit_seconds, **measured), predictions
            )
