"""results.json and predictions.safetensors: what tables, intervals and plots are drawn from, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from synthicl.core.errors import UserError
from synthicl.core.files import write_whole
from synthicl.core.words import words

KEY = (
    "command", "context", "draw", "seed", "ipc", "n_context", "probe", "preprocessing", "statistics", "backbone",
    "split", "checkpoint",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """The score of one context set with one probe.

    Attributes:
        command: name of the study that asked for it: ``compare``, ``scaling``, ...
        context: which context: ``random``, ``centroid``, ``class_mean``, ``synthetic``, ``all``, ...
        draw: number of a random draw, 0 for deterministic contexts.
        seed: seed of the optimisation that made a synthetic context, or of the run that was compared.
        ipc: images per class of the run.
        probe: ``tabicl``, ``linear``, ...
        preprocessing: TabICL's preprocessing, empty for other probes.
        split: ``val`` or ``test``.
        checkpoint: of a synthetic context: ``last``, or ``best_on_val``, which val has chosen; else empty.
        accuracy: share of queries classified correctly, in [0, 1].
        cross_entropy: mean, in nats.
        n_context: context rows.
        n_query: queries.
        fit_seconds: wall-clock time of fitting.
        predict_seconds: wall-clock time of predicting all queries.
        statistics: what the preprocessing was fitted on: ``context``, ``train``, or in ``scaling`` the ``share`` of it.
        backbone: whose embeddings these are.
        measures: whatever else a study measures, by name.
        run: what identifies the run: dataset, backbone, objective, TabICL checkpoint.
        subject: fingerprint of what was evaluated: data, backbone, TabICL, context set.
        fingerprint: of context, queries and preprocessing: a row with another one is out of date.
        made_by: the command line that made the row.
    """

    command: str
    context: str
    draw: int
    seed: int
    ipc: int
    probe: str
    preprocessing: str
    split: str
    checkpoint: str
    accuracy: float
    cross_entropy: float
    n_context: int
    n_query: int
    fit_seconds: float
    predict_seconds: float
    statistics: str
    backbone: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    subject: str = ""
    fingerprint: str = ""
    made_by: str = ""

    @property
    def key(self) -> str:
        """The name under which this row and its predictions are kept."""
        return "/".join(f"{name}={getattr(self, name)}" for name in KEY)


def probe_title(probe: str, preprocessing: str) -> str:
    """How a probe is called in tables and figures: with its preprocessing in brackets, where it has one."""
    name, _, checkpoint = probe.partition(" ")  # "tabicl mini_1"
    title = f"{words(name)} {checkpoint}".strip()
    return f"{title} ({words(preprocessing)})" if preprocessing else title


@dataclass
class Results:
    """Rows and the predictions behind them.

    Attributes:
        rows: by key.
        predictions: predicted class of each query, (q,), int64, by the row's key.
        labels: class of each query, (q,), int64, by split; or by the row's key where a row has queries of its own.
        arrays: whatever else a study shows, by name; what belongs to a row ends in the row's key.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, row: Row, predictions: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Insert a row, or replace the one with its key; ``labels`` if its queries are not the whole split."""
        self.rows[row.key] = row
        self.predictions[row.key] = predictions
        if labels is not None:
            self.labels[row.key] = labels

    def drop(self, rows: Iterable[Row]) -> None:
        """Remove rows and what belongs to them."""
        for row in rows:
            for kept in (self.rows, self.predictions, self.labels):
                kept.pop(row.key, None)
            self.arrays = {name: array for name, array in self.arrays.items() if not name.endswith(f"/{row.key}")}

    def has(self, row: Row) -> bool:
        """Whether the same was measured before: a row of the same key, run and fingerprint."""
        known = self.rows.get(row.key)
        return known is not None and (known.run, known.fingerprint) == (row.run, row.fingerprint)

    def select(self, **values: Any) -> list[Row]:
        """The rows whose attributes have these values."""
        return [row for row in self.rows.values() if all(getattr(row, name) == value for name, value in values.items())]

    def of(self, command: str) -> Results:
        """The rows of one study, and what belongs to them."""
        rows = {key: row for key, row in self.rows.items() if row.command == command}
        return Results(rows, self.predictions, self.labels, self.arrays)

    def shown(self) -> str:
        """The split whose scores are shown: val while one chooses, test once it is scored."""
        return "test" if self.select(split="test") else "val"

    def correct(self, rows: Iterable[Row]) -> np.ndarray:
        """Which queries each row classifies correctly, (rows, q), bool."""
        return np.stack(
            [self.predictions[row.key] == self.labels.get(row.key, self.labels.get(row.split)) for row in rows]
        )

    def save(self, folder: Path) -> None:
        """Write both files into ``folder``, predictions first: a row is never without them."""
        tensors = {key: value.astype(np.int64) for key, value in self.predictions.items()}
        tensors |= {f"labels/{name}": value.astype(np.int64) for name, value in self.labels.items()}
        tensors |= {f"arrays/{name}": np.ascontiguousarray(value) for name, value in self.arrays.items()}
        write_whole(folder / "predictions.safetensors", lambda path: path.write_bytes(save(tensors)))
        text = json.dumps([asdict(row) for row in self.rows.values()], indent=1, ensure_ascii=False)
        write_whole(folder / "results.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))

    @staticmethod
    def set_aside(folder: Path) -> None:
        """Rename what `save` wrote, if it is there, so that the next `save` does not replace it."""
        path = folder / "results.json"
        if path.exists():
            print(f"{path}: of other images or weights than now. Kept as old-{path.name}.", flush=True)
            for stale in (folder / "predictions.safetensors", path):
                stale.replace(stale.with_name(f"old-{stale.name}"))

    @classmethod
    def load(cls, folder: Path, subject: str | None = None) -> Results:
        """Read what `save` wrote; empty if there is nothing yet.

        Args:
            folder: where it was saved.
            subject: if given, results of any other subject count as nothing: data, weights or images have changed.

        Raises:
            UserError: one of the files is damaged.
        """
        results = cls()
        path = folder / "results.json"
        if not path.exists():
            return results
        try:
            names = {item.name for item in fields(Row)}
            rows = [
                Row(**{name: value for name, value in entry.items() if name in names})
                for entry in json.loads(path.read_text(encoding="utf-8"))
            ]
            tensors = load_file(folder / "predictions.safetensors")
        except (ValueError, TypeError, AttributeError, OSError, SafetensorError) as error:
            raise UserError(
                f"{path}, or predictions.safetensors beside it: damaged ({error}). Delete both and evaluate again."
            ) from error
        for kind, kept in (("labels/", results.labels), ("arrays/", results.arrays)):
            kept |= {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
        if subject is not None and any(row.subject != subject for row in rows):
            return cls()
        for row in rows:
            if row.key in tensors:
                results.add(row, tensors[row.key])
        return results
