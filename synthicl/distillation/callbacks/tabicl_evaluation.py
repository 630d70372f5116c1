"""TabICL at each validation: fitted on the current context rows, scored on val embeddings that were computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from synthicl.core.errors import UserError, check_at_least, check_between
from synthicl.core.settings import MAX_MEMBERS
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.distiller import Distiller
from synthicl.embeddings.bank import embed_clean
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.preprocessing_choice import CANDIDATES, fit_or_choose
from synthicl.probes.score import fit_and_score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import check_checkpoint, checkpoint_name, find_checkpoint
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, columns_of


class TabICLEvaluation(L.Callback):
    """Score the synthetic images as TabICL's context; logs ``val/tabicl_accuracy`` for the checkpoint callback.

    It runs on rank 0, with its own random state: how often one validates does not change the images. Before anything
    else it chooses how TabICL is deployed, and hands the module that value, for the objective and other callbacks.

    Args:
        checkpoint: TabICL checkpoint: ``mini`` (bundled), ``v2``, ``v1.1`` or ``v1``.
        model_path: a local checkpoint file that takes its place.
        preprocessing: ``auto`` takes the first candidate that is as good as the best on val with random real
            contexts; or a preprocessing's name, see `synthicl.tabicl.preprocessing`.
        candidates: what ``auto`` chooses from, those preferred first.
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
        check_between(1, MAX_MEMBERS, "--tabicl.", n_estimators=n_estimators)
        check_at_least(1, "--tabicl.", max_queries=max_queries)
        if not candidates:
            raise UserError("--tabicl.candidates=[]: nothing to choose from. Name at least one, or leave the flag out.")
        self.checkpoint = checkpoint_name(checkpoint, model_path)
        self.model_path = find_checkpoint(checkpoint, model_path)
        if model_path is not None:
            check_checkpoint(self.model_path)
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
        chosen = self._of_extended(module)
        if chosen is None:
            train, val = self.embedded(trainer, module, "train"), self.queries(trainer, module, "val")
            if trainer.is_global_zero:
                asked = (self.preprocessing, self.candidates, train, val, module.ipc)
                with isolate_rng():
                    chosen = fit_or_choose(*asked, self.model_path, self.n_estimators, module.device)
        preprocessing: Preprocessing = trainer.strategy.broadcast(chosen)  # type: ignore[assignment]
        self.preprocessing = preprocessing.name
        module.deployment = Deployment(preprocessing, self.checkpoint, self.model_path)

    def _of_extended(self, module: Distiller) -> Preprocessing | None:
        """The preprocessing of the run that is extended, unless another one is asked for.

        It is kept with its statistics, as the frozen images were made for it (docs/how-it-works.md has what val said).
        """
        if module.extended is None or self.preprocessing not in ("auto", module.extended.preprocessing.name):
            return None
        before = module.extended.preprocessing
        return replace(before, n_estimators=self.n_estimators or before.n_estimators)

    @staticmethod
    def embedded(trainer: L.Trainer, module: Distiller, split: str) -> LabelledEmbeddings:
        """Clean embeddings of a split; a collective call."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        crop_size, what = module.viewer.crop_size, f"{split} images"
        return embed_clean(module.backbone, data.splits[split], crop_size, data.num_workers, what)

    def queries(self, trainer: L.Trainer, module: Distiller, split: str) -> LabelledEmbeddings:
        """What is asked of a split at each evaluation; of val at most ``max_queries``. A collective call at first."""
        if split not in self._queries:
            queries = self.embedded(trainer, module, split)
            if split == "val" and self.max_queries is not None and self.max_queries < len(queries.y):
                order = torch.randperm(len(queries.y), generator=torch.Generator().manual_seed(0))
                queries = queries.at(order[: self.max_queries])
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
                probe = TabICLProbe(module.deployment, module.device)
                _, measured = fit_and_score(probe, rows.cpu(), queries)
        measured = trainer.strategy.broadcast(measured)
        module.log(f"{split}/tabicl_accuracy", measured["accuracy"], prog_bar=True)
        module.log(f"{split}/tabicl_cross_entropy", measured["cross_entropy"])
        seconds = measured["fit_seconds"] + measured["predict_seconds"]
        module.log(f"{split}/tabicl_seconds", seconds, prog_bar=True)
