"""``tabicl``: TabICL with the context set as its context, through its own ``TabICLClassifier``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.probe import Probe, ProbeSetting, few_rows_of_many_classes
from synthicl.tabicl.checkpoint import check_checkpoint, is_published
from synthicl.tabicl.class_tree import ClassTree
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing

if TYPE_CHECKING:
    from tabicl import TabICLClassifier

QUERY_CHUNK = 4096  # queries handed to TabICL at once: its batch size counts ensemble members, not rows


class TabICLProbe(Probe):
    """TabICL behind the `Probe` interface.

    Args:
        deployment: what happens to an embedding before TabICL's own preprocessing, and the checkpoint, in tabicl's
            format; it is loaded with ``weights_only``.
        device: where it runs.
        random_state: seed of the ensemble's shuffles.
        name: its word in results.json, where several stand side by side.
        keeps_context: whether to keep what TabICL computes from the context, where that is possible (see
            `synthicl.tabicl.cached.why_not_kept`): for who predicts more than once. Probabilities are the same up to
            rounding.

    Attributes:
        fitted: the wrapper, after `fit`; for more classes than the checkpoint has outputs a tree of them, but for
            published checkpoints, which go tabicl's own way.

    Raises:
        UserError: the file is no TabICL checkpoint.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        deployment: Deployment,
        device: torch.device | str = "cpu",
        random_state: int = 42,
        name: str = "tabicl",
        keeps_context: bool = False,
    ) -> None:
        self.outputs = check_checkpoint(deployment.model_path)
        self.name = name
        self.deployment = deployment
        self.preprocessing = deployment.preprocessing
        self.device = device
        self.random_state = random_state
        self.keeps_context = keeps_context

    def classifier(self) -> TabICLClassifier:
        """The wrapper, not fitted yet."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the checkpoint is a file: nothing is to be looked up
        # After the line above, which huggingface_hub reads when it is imported.
        from tabicl import TabICLClassifier

        return TabICLClassifier(
            n_estimators=self.preprocessing.n_estimators,
            model_path=self.deployment.model_path,
            allow_auto_download=False,
            device=str(self.device),
            random_state=self.random_state,
        )

    @override
    def fit(self, context: LabelledEmbeddings, images: Tensor | None = None) -> None:
        many = len(context.y.unique()) > self.outputs and not is_published(self.deployment.checkpoint)
        made: ClassTree | TabICLClassifier = ClassTree(self.classifier, self.outputs) if many else self.classifier()
        with few_rows_of_many_classes():
            self.fitted = made.fit(self.preprocessing(context.z).numpy(), context.y.numpy())
        if self.keeps_context:
            # Loads tabicl with it.
            from synthicl.tabicl.cached import keep_context

            for learner in self.learners():
                keep_context(learner)

    def learners(self) -> list[TabICLClassifier]:
        """The wrapper, after `fit`, or those of the tree from its root on."""
        return list(self.fitted.learners()) if isinstance(self.fitted, ClassTree) else [self.fitted]

    @override
    def predict_proba(self, z: Tensor) -> np.ndarray:
        columns = self.preprocessing(z)
        return np.concatenate([self.fitted.predict_proba(part.numpy()) for part in columns.split(QUERY_CHUNK)])


def make(setting: ProbeSetting) -> TabICLProbe:
    """Make the probe."""
    return TabICLProbe(setting.deployment, setting.device)


REGISTERED = {"tabicl": make}
