"""``tabdpt``: TabDPT with the context set as its context, a learner that was trained on real tables.

J. Ma, V. Thomas et al., "TabDPT: Scaling Tabular Foundation Models on Real Data", NeurIPS 2025,
https://arxiv.org/abs/2410.18164.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from typing_extensions import override

from synthicl.probes.learner import InContextLearner
from synthicl.probes.probe import ProbeSetting


class TabDPTProbe(InContextLearner):
    """``TabDPTClassifier`` as an `InContextLearner`; the whole context is shown to every query.

    More classes than its head has are told apart digit by digit, more columns than it takes are reduced by a PCA of
    the context.
    """

    name = "tabdpt"

    @override
    def build(self, path: str) -> Any:
        # An optional package.
        from tabdpt import TabDPTClassifier

        # Half precision and compiling, its defaults on a GPU, would make scores depend on the device.
        return TabDPTClassifier(
            model_weight_path=path, device=self.device, use_flash=False, compile=False, verbose=False
        )

    @override
    def learn(self, rows: np.ndarray, y: np.ndarray) -> None:
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices):  # its PCA draws from torch's global state
            torch.manual_seed(self.seed)
            self.classifier.fit(rows, y)

    @override
    def answer(self, rows: np.ndarray) -> np.ndarray:
        members = self.preprocessing.n_estimators
        answer: np.ndarray = self.classifier.ensemble_predict_proba(rows, n_ensembles=members, seed=self.seed)
        return answer


def make(setting: ProbeSetting) -> TabDPTProbe:
    """Make the probe; see `TabDPTProbe`."""
    return TabDPTProbe(setting.deployment.preprocessing, setting.device, setting.seed)


OPTIONAL = {"tabdpt": make}
