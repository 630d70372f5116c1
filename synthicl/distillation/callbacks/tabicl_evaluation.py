"""TabICL at each validation: fitted on the current context rows, scored on val embeddings that were computed once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from synthicl.core.assets import obtain
from synthicl.core.errors import UserError, check_at_least
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.distiller import Distiller
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.preprocessing_choice import CANDIDATES, fit_or_choose
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import checkpoint_asset
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, columns_of


class TabICLEvaluation(L.Callback):
    """Score the synthetic images as TabICL's context; logs ``val/tabicl_accuracy`` for the checkpoint callback.

    It runs on rank 0, with its own random state: how often one validates does not change the images. Before anything
    else it chooses how TabICL is deployed, and hands the module that value, for the objective and other callbacks.

    Args:
        checkpoint: TabICL checkpoint: ``mini`` (bundled), ``v2``, ``v1.1`` or ``v1``.
        model_path: a local checkpoint file that takes its place.
        preprocessing: ``auto`` takes the candidate that is best on val with random real contexts; or a preprocessing's
            name, see `synthicl.tabicl.preprocessing`.
        candidates: what ``auto`` chooses from.
        n_estimators: ensemble members; None for the preprocessing's own number.
        max_queries: val images to score at each validation, a random subset that is always the same; None for all.

    Raises:
        UserError: unknown preprocessing or checkpoint.
    """

    def __init__(
        self,
        checkpoint: str = "mini",
        model_path: str | None = None,
        preprocessing: str = "auto",
        candidates: tuple[str, ...] = CANDIDATES,
        n_estimators: int | None = None,
        max_queries: int | None = None,
    ) -> None:
        for name in candidates if preprocessing == "auto" else (preprocessing,):
            columns_of(name)
        check_at_least(1, "--tabicl.", n_estimators=n_estimators, max_queries=max_queries)
        self.checkpoint = checkpoint if model_path is None else Path(model_path).name
        self.model_path = obtain(checkpoint_asset(checkpoint, model_path))
        self.preprocessing = preprocessing
        self.candidates = candidates
        self.n_estimators = n_estimators
        self.max_queries = max_queries
        self._queries: dict[str, LabelledEmbeddings] = {}
        self._rows: tuple[int, LabelledEmbeddings | None] = (0, None)

    @staticmethod
    def of(trainer: L.Trainer) -> TabICLEvaluation:
        """The one that a Trainer has."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, TabICLEvaluation))

    def state_dict(self) -> dict[str, Any]:
        """The preprocessing's name: what val chose, once it has."""
        return {"preprocessing": self.preprocessing}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A run that resumes keeps the preprocessing that val chose when it began.

        Raises:
            UserError: another one is asked for.
        """
        before = state_dict["preprocessing"]
        if self.preprocessing not in ("auto", before):
            raise UserError(
                f"--tabicl.preprocessing={self.preprocessing}: the checkpoint was made with {before}, which cannot "
                "change when a run resumes. Leave the flag out, or start a new run."
            )
        self.preprocessing = before

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose how TabICL is deployed, before the objective is prepared for it."""
        self._deploy(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for ``train.py validate``."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._deploy(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same for ``train.py test``."""
        self._deploy(trainer, pl_module)

    def _deploy(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Choose the preprocessing, and hand the module the deployment; a collective call."""
        assert isinstance(module, Distiller)
        train, val = self._embed(trainer, module, "train"), self.queries(trainer, module, "val")
        chosen = None
        if trainer.is_global_zero:
            asked = (self.preprocessing, self.candidates, train, val, module.ipc)
            with isolate_rng():
                chosen = fit_or_choose(*asked, self.model_path, self.n_estimators, module.device)
        preprocessing: Preprocessing = trainer.strategy.broadcast(chosen)  # type: ignore[assignment]
        self.preprocessing = preprocessing.name
        module.deployment = Deployment(preprocessing, self.checkpoint, self.model_path)

    @staticmethod
    def _embed(trainer: L.Trainer, module: Distiller, split: str) -> LabelledEmbeddings:
        """Clean embeddings of a split; a collective call."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        images, workers = data.splits[split], data.num_workers
        crop_size, what = module.viewer.crop_size, f"{split} images"
        z = embed_views(module.backbone, images, crop_size, num_workers=workers, what=what)
        return LabelledEmbeddings(z[0], torch.from_numpy(images.labels))

    def queries(self, trainer: L.Trainer, module: Distiller, split: str) -> LabelledEmbeddings:
        """What is asked of a split at each evaluation; of val at most ``max_queries``. A collective call at first."""
        if split not in self._queries:
            queries = self._embed(trainer, module, split)
            if split == "val" and self.max_queries is not None and self.max_queries < len(queries.y):
                order = torch.randperm(len(queries.y), generator=torch.Generator().manual_seed(0))
                chosen = order[: self.max_queries]
                queries = LabelledEmbeddings(queries.z[chosen], queries.y[chosen])
            self._queries[split] = queries
        return self._queries[split]

    def rows(self, trainer: L.Trainer, module: Distiller) -> LabelledEmbeddings:
        """The context rows at this step, embedded once for all who score them. A collective call at first."""
        step, rows = self._rows
        if rows is None or step != trainer.global_step:
            rows = module.viewer.context(module.images)
            self._rows = trainer.global_step, rows
        return rows

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score on val."""
        if not trainer.sanity_checking:
            self._score_and_log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score on test, for ``train.py test``."""
        self._score_and_log(trainer, pl_module, "test")

    def _score_and_log(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        assert isinstance(module, Distiller)
        queries = self.queries(trainer, module, split)
        rows = self.rows(trainer, module)
        measured: dict[str, float] = {}
        if trainer.is_global_zero:
            with isolate_rng():
                measured = _evaluate(rows, queries, module.deployment, module.device)
        measured = trainer.strategy.broadcast(measured)
        module.log(f"{split}/tabicl_accuracy", measured["accuracy"], prog_bar=True)
        module.log(f"{split}/tabicl_cross_entropy", measured["cross_entropy"])
        module.log(f"{split}/tabicl_seconds", measured["seconds"], prog_bar=True)


def _evaluate(
    rows: LabelledEmbeddings, queries: LabelledEmbeddings, deployment: Deployment, device: torch.device
) -> dict[str, float]:
    """Fit TabICL on context rows and score it: accuracy, cross_entropy, seconds."""
    start = time.perf_counter()
    probe = TabICLProbe(deployment, device)
    context = LabelledEmbeddings(rows.z.cpu(), rows.y.cpu())
    probe.fit(context)
    _, measured = score(probe, queries, context.y.unique().numpy())
    return measured | {"seconds": time.perf_counter() - start}
