"""What in-context learners of other packages have in common: weights that are supplied, and errors in one line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from typing_extensions import override

from synthicl.core.errors import UserError
from synthicl.core.files import file_fingerprint
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe
from synthicl.probes.supplied import supplied, variable_of
from synthicl.tabicl.preprocessing import Preprocessing

QUERY_CHUNK = 4096  # queries handed over at once


class InContextLearner(Probe):
    """A classifier of another package behind the `Probe` interface: it has ``fit`` and ``predict_proba``.

    Its columns and the size of its ensemble are those of TabICL's preprocessing. The file of its weights is looked at
    before the package reads it: one that asks for code to be run is refused, whatever the package would do. Then the
    learner is fitted on two rows, so that weights of something else are refused before anything is scored.

    Args:
        preprocessing: what happens to an embedding before the learner's own preprocessing.
        device: where it runs.
        seed: of its ensemble.

    Raises:
        UserError: its package or its checkpoint is missing, or the checkpoint is none of this learner's.
    """

    preprocessing: Preprocessing

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str = "cpu", seed: int = 0) -> None:
        path = supplied(self.name)
        self.preprocessing = preprocessing
        self.device = str(device)
        self.seed = seed
        self.weights = file_fingerprint(path)
        check_holds_no_code(path, f"--probes={self.name}: {variable_of(self.name)}")
        with self._in_one_line(f"{variable_of(self.name)}={path}: cannot be used: "):
            self.classifier = self.build(str(path))
            self.learn(np.eye(2, dtype=np.float32), np.arange(2))

    @abstractmethod
    def build(self, path: str) -> Any:
        """The package's classifier, with the weights at ``path``."""

    def learn(self, rows: np.ndarray, y: np.ndarray) -> None:
        """Fit on rows (n, D), float32, of classes y (n,), which are numbered from 0 without gaps."""
        self.classifier.fit(rows, y)

    def answer(self, rows: np.ndarray) -> np.ndarray:
        """Class probabilities (q, C) of rows (q, D)."""
        answer: np.ndarray = self.classifier.predict_proba(rows)
        return answer

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        """Fit on a context.

        Raises:
            UserError: the package refuses it, for example because of its limits on classes and rows.
        """
        rows, y = self.preprocessing(context.z).numpy(), np.unique(context.y.numpy(), return_inverse=True)[1]
        with self._in_one_line():
            self.learn(rows, y)

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        parts = self.preprocessing(z).split(QUERY_CHUNK)
        with self._in_one_line():
            return np.concatenate([self.answer(part.numpy()) for part in parts])

    @contextmanager
    def _in_one_line(self, what: str = "") -> Iterator[None]:
        """Whatever a package raises is said in one line; a memory that is full has a line of its own."""
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise UserError(f"--probes={self.name}: {what}{reason}") from error


def check_holds_no_code(path: Path, flag: str) -> None:
    """Check that a file of weights is safetensors, or a pickle of tensors and plain values alone.

    Args:
        path: the file; ``*.safetensors`` is taken at its word, anything else for torch's.
        flag: what the message names.

    Raises:
        UserError: it is not; nothing in it was executed.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        else:
            torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # neither states a list of what it raises
        kind = "safetensors" if path.suffix == ".safetensors" else "a torch file of tensors and plain values alone"
        raise UserError(f"{flag}={path}: is not {kind} ({type(error).__name__}). Nothing in it was run.") from error
