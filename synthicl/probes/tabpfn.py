"""``tabpfn``: TabPFN with the context set as its context: whether a context made for TabICL serves another learner.

N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature 637, 2025.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from typing_extensions import override

from synthicl.probes.learner import InContextLearner
from synthicl.probes.probe import ProbeSetting


class TabPFNProbe(InContextLearner):
    """``TabPFNClassifier`` as an `InContextLearner`; it says itself how many classes and rows it takes."""

    name = "tabpfn"

    @override
    def build(self, path: str) -> Any:
        os.environ.setdefault("TABPFN_DISABLE_TELEMETRY", "1")  # before the import: some versions report usage
        # An optional package.
        from tabpfn import TabPFNClassifier

        return TabPFNClassifier(
            n_estimators=self.preprocessing.n_estimators,
            model_path=path,
            device=self.device,
            inference_precision=torch.float32,  # its default, half, answers by how many are asked at once
            random_state=self.seed,
        )


def make(setting: ProbeSetting) -> TabPFNProbe:
    """Make the probe; see `TabPFNProbe`."""
    return TabPFNProbe(setting.deployment.preprocessing, setting.device, setting.seed)


OPTIONAL = {"tabpfn": make}
