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

from synthicl.errors import UserError
from synthicl.files import write_whole

KEY = ("context", "draw", "seed", "ipc", "probe", "protocol", "split", "checkpoint")


@dataclass(frozen=True)
class Row:
    """The score of one context set with one probe.

    Attributes:
        context: which context: ``random``, ``centroid``, ``class_mean``, ``synthetic``, ``all``, ...
        draw: number of a random draw, 0 for deterministic contexts.
        seed: seed of the optimisation that made a synthetic context, or of the run that was compared.
        ipc: images per class of the run.
        probe: ``tabicl``, ``linear``, ...
        protocol: TabICL's protocol, empty for other probes.
        split: ``val`` or ``test``.
        checkpoint: of a synthetic context: ``last``, or ``best_on_val``, which val has chosen; else empty.
        accuracy: share of queries classified correctly, in [0, 1].
        cross_entropy: mean, in nats.
        n_context: context rows.
        n_query: queries.
        fit_seconds: wall-clock time of fitting.
        predict_seconds: wall-clock time of predicting all queries.
        statistics: what the protocol was fitted on, ``context`` or ``train``.
        run: what identifies the run: dataset, backbone, objective, TabICL checkpoint.
    """

    context: str
    draw: int
    seed: int
    ipc: int
    probe: str
    protocol: str
    split: str
    checkpoint: str
    accuracy: float
    cross_entropy: float
    n_context: int
    n_query: int
    fit_seconds: float
    predict_seconds: float
    statistics: str
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name under which this row and its predictions are kept."""
        return "/".join(f"{name}={getattr(self, name)}" for name in KEY)


@dataclass
class Results:
    """Rows and the predictions behind them.

    Attributes:
        rows: by key.
        predictions: predicted class of each query, (q,), int64, by the row's key.
        labels: class of each query, (q,), int64, by split.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, row: Row, predictions: np.ndarray) -> None:
        """Insert a row, or replace the one with its key."""
        self.rows[row.key] = row
        self.predictions[row.key] = predictions

    def select(self, **values: Any) -> list[Row]:
        """The rows whose attributes have these values."""
        return [row for row in self.rows.values() if all(getattr(row, name) == value for name, value in values.items())]

    def correct(self, rows: Iterable[Row]) -> np.ndarray:
        """Which queries each row classifies correctly, (rows, q), bool."""
        return np.stack([self.predictions[row.key] == self.labels[row.split] for row in rows])

    def save(self, folder: Path) -> None:
        """Write both files into ``folder``, predictions first: a row is never without them."""
        tensors = {key: value.astype(np.int64) for key, value in self.predictions.items()}
        tensors |= {f"labels/{split}": value.astype(np.int64) for split, value in self.labels.items()}
        write_whole(folder / "predictions.safetensors", lambda path: path.write_bytes(save(tensors)))
        text = json.dumps([asdict(row) for row in self.rows.values()], indent=1, ensure_ascii=False)
        write_whole(folder / "results.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read what `save` wrote; empty if there is nothing yet.

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
        results.labels = {
            name.removeprefix("labels/"): value for name, value in tensors.items() if name.startswith("labels/")
        }
        for row in rows:
            if row.key in tensors:
                results.add(row, tensors[row.key])
        return results
