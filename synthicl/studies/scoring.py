"""Scoring contexts with probes, for all studies alike. A row that was measured before is not measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track
from torch import Tensor

from synthicl.embeddings.labelled import LabelledEmbeddings, fingerprint
from synthicl.probes.calibration import brier, reliability
from synthicl.probes.probe import Probe
from synthicl.probes.score import judge
from synthicl.studies.results import Results, Row

SAVE_EVERY = 20.0  # seconds between two times that results are saved while a study runs


class Context(NamedTuple):
    """A context set in an evaluation; names as in `Row`.

    Attributes:
        name: which context.
        draw: number of a random draw.
        checkpoint: of a synthetic context.
        rows: n of them.
        images: reads its images, (n, 3, S, S), uint8, for probes that look at them; None for vectors.
        measures: what the study notes about it.
    """

    name: str
    draw: int
    checkpoint: str
    rows: LabelledEmbeddings
    images: Callable[[], Tensor] | None = None
    measures: Mapping[str, float] = {}


class Job(NamedTuple):
    """A context and a probe to fit on it.

    Attributes:
        context: what it is fitted on.
        probe: what is scored.
        queries: by split, where they are not those that all jobs share.
    """

    context: Context
    probe: Probe
    queries: Mapping[str, LabelledEmbeddings] | None = None


class Extra(NamedTuple):
    """What a study notes about a row beside its accuracy.

    Attributes:
        measures: numbers by name.
        arrays: what it shows, by name; kept as ``<study>/<name>/<key of the row>``.
    """

    measures: Mapping[str, float] = {}
    arrays: Mapping[str, np.ndarray] = {}


@dataclass
class Scorer:
    """Puts a study's rows into results.

    Attributes:
        results: where rows go.
        folder: where results are saved while a study runs and at its end; None keeps them in memory.
        command: name of the study.
        seed: of the run.
        ipc: of the run.
        run: what identifies the run.
        backbone: whose embeddings are scored.
        subject: fingerprint of what is evaluated.
        made_by: the command line.
        calibration: whether rows say how calibrated probabilities are: measures ``brier`` and ``ece``, and the
            confidence of each query, (q,), float32, as ``<study>/confidence/<key of the row>``.
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
    calibration: bool = False

    def score(
        self,
        jobs: Iterable[Job],
        queries: Mapping[str, LabelledEmbeddings] | None = None,
        what: str = "Scoring contexts",
        extra: Callable[[Job, str, np.ndarray, np.ndarray], Extra] | None = None,
        total: int | None = None,
    ) -> None:
        """Fit every job's probe on its context and score it on every split; what is there already is passed over.

        Args:
            jobs: contexts with the probes they are given to; each is taken when the one before it is done.
            queries: of jobs that have none of their own, whole splits by name.
            what: text of the progress bar.
            extra: what else is measured of a job whose probe has just predicted the classes (q,) of a split, with
                probabilities (q, C).
            total: number of jobs, where ``jobs`` has no length.
        """
        shared = queries or {}
        for split, asked in shared.items():
            self.results.labels[split] = asked.y.numpy()
        with self._saving() as saved:
            for job in track(jobs, what, total, transient=True):
                self._score(job, job.queries or shared, extra)
                saved()

    @contextmanager
    def _saving(self) -> Iterator[Callable[[], None]]:
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
            n_context=len(context.rows.y),
            n_query=len(queries.y),
            statistics=preprocessing.statistics if preprocessing else "context",
            backbone=self.backbone,
            measures=dict(context.measures),
            run=self.run | members,
            subject=self.subject,
            fingerprint=fingerprint(
                context.rows.z, context.rows.y, queries.z, queries.y, context.rows.soft_labels, *statistics
            ),
            made_by=self.made_by,
            **(values | measured),
        )

    def _score(
        self,
        job: Job,
        queries: Mapping[str, LabelledEmbeddings],
        extra: Callable[[Job, str, np.ndarray, np.ndarray], Extra] | None,
    ) -> None:
        context, probe = job.context, job.probe
        missing = {
            split: asked
            for split, asked in queries.items()
            if not self.results.has(self.row(context, probe, split, asked))
        }
        if not missing:
            return
        start = time.perf_counter()
        probe.fit(context.rows, context.images() if probe.needs_images and context.images else None)
        fit_seconds = time.perf_counter() - start
        for split, asked in missing.items():
            classes = np.unique(context.rows.y.numpy())
            start = time.perf_counter()
            probabilities = probe.predict_proba(asked.z)
            predict_seconds = time.perf_counter() - start
            predictions, measured = judge(probabilities, asked, classes)
            measured |= {"fit_seconds": fit_seconds, "predict_seconds": predict_seconds}
            row = self.row(context, probe, split, asked, **measured)
            measures, arrays = extra(job, split, predictions, probabilities) if extra else Extra()
            if self.calibration:
                truth, confidence = asked.y.numpy(), probabilities.max(1).astype(np.float32)
                measures = {
                    **measures,
                    "brier": brier(probabilities, truth, classes),
                    "ece": reliability(confidence, predictions == truth).error,
                }
                arrays = {**arrays, "confidence": confidence}
            row = replace(row, measures={**row.measures, **measures})
            self.results.add(row, predictions, labels=asked.y.numpy() if job.queries else None)
            self.results.arrays |= {f"{self.command}/{name}/{row.key}": array for name, array in arrays.items()}
