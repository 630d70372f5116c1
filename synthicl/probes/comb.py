"""``comb``: Comb with the context set as its context, TabICL's network trained by somebody else on cells of rows.

M. Herre, "Comb: a tabular in-context classifier with an exactly editable training set", 2026,
https://github.com/m-herre/comb. Contexts of at most 4096 rows are not compressed into cells.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from synthicl.probes.learner import InContextLearner
from synthicl.probes.probe import ProbeSetting


class CombProbe(InContextLearner):
    """``CombClassifier`` as an `InContextLearner`.

    A checkpoint ``*.safetensors`` has its ``config.json`` beside it; a ``*.ckpt`` holds both.
    """

    name = "comb"

    @override
    def build(self, path: str) -> Any:
        # An optional package.
        from comb import CombClassifier

        return CombClassifier(
            checkpoint=path,
            n_estimators=self.preprocessing.n_estimators,
            device=self.device,
            use_amp=False,  # the same numbers on every device
            random_state=self.seed,
        )


def make(setting: ProbeSetting) -> CombProbe:
    """Make the probe; see `CombProbe`."""
    return CombProbe(setting.deployment.preprocessing, setting.device, setting.seed)


OPTIONAL = {"comb": make}
