"""``tabpfn``: TabPFN with the context set as its context: whether a context made for TabICL serves another learner.

N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 637, 2025. The package
is not among the project's dependencies (``pip install tabpfn``), and its weights, which come under licences of their
own, are not downloaded: ``$SYNTHICL_TABPFN_MODEL`` names a checkpoint of its classifier.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from synthicl.core.errors import UserError
from synthicl.core.files import file_fingerprint
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe, ProbeSetting
from synthicl.tabicl.preprocessing import Preprocessing

VARIABLE = "SYNTHICL_TABPFN_MODEL"
QUERY_CHUNK = 4096  # queries handed to TabPFN at once


class TabPFNProbe(Probe):
    """``TabPFNClassifier`` behind the `Probe` interface.

    Its columns and the size of its ensemble are those of TabICL's preprocessing.

    Args:
        preprocessing: what happens to an embedding before TabPFN's own preprocessing.
        device: where it runs.
        seed: of the ensemble.

    Raises:
        UserError: the package or its checkpoint is missing.
    """

    name = "tabpfn"
    preprocessing: Preprocessing

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str = "cpu", seed: int = 0) -> None:
        os.environ.setdefault("TABPFN_DISABLE_TELEMETRY", "1")  # before the import: it reports usage otherwise
        try:
            # An optional package.
            import tabpfn  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise UserError(
                "--probes=tabpfn: the package tabpfn is not installed. Install it with: pip install tabpfn"
            ) from error
        path = os.environ.get(VARIABLE, "")
        if not Path(path).is_file():  # TabPFN would download to a path where nothing lies
            raise UserError(
                f"--probes=tabpfn: {VARIABLE}={path}: not a file. Set it to the path of a TabPFN classifier checkpoint."
            )
        self.preprocessing = preprocessing
        self.weights = file_fingerprint(Path(path))
        self.classifier = tabpfn.TabPFNClassifier(
            n_estimators=preprocessing.n_estimators, model_path=path, device=str(device), random_state=seed
        )

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        """Fit on a context.

        Raises:
            UserError: TabPFN refuses the context, for example because of its limits on classes and rows.
        """
        try:
            self.classifier.fit(self.preprocessing(context.z).numpy(), context.y.numpy())
        except (ValueError, RuntimeError) as error:
            raise UserError(f"--probes=tabpfn: {' '.join(str(error).split())}") from error

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        parts = self.preprocessing(z).split(QUERY_CHUNK)
        return np.concatenate([self.classifier.predict_proba(part.numpy()) for part in parts])


def make(setting: ProbeSetting) -> TabPFNProbe:
    """Make the probe; see `TabPFNProbe`."""
    return TabPFNProbe(setting.deployment.preprocessing, setting.device, setting.seed)


OPTIONAL = {"tabpfn": make}
