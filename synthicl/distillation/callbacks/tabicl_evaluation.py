"""TabICL at each validation: fitted on the current context rows, scored on val embeddings that were computed once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from synthicl.core.assets import obtain
from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.distiller import ContextRows, Distiller
from synthicl.embeddings.bank import embed_views
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.preprocessing_choice import CANDIDATES, choose_preprocessing
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import checkpoint_asset
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing, columns_of, fit_preprocessing


class TabICLScore(NamedTuple):
    """What one evaluation gave."""

    accuracy: float
    cross_entropy: float
    seconds: float


class TabICLEvaluation(L.Callback):
    """Score the synthetic images as TabICL's context; logs ``val/tabicl_accuracy`` for the checkpoint callback.

    It runs on rank 0, with its own random state: how often one validates does not change the images.

    Args:
        checkpoint: TabICL checkpoint: ``mini`` (bundled), ``v2``, ``v1.1`` or ``v1``.
        model_path: a local checkpoint file that takes its place.
        preprocessing: ``auto`` takes the candidate that is best on val with random real contexts; or a preprocessing's name, see
            `synthicl.tabicl.preprocessing`.
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
        for flag, value in (("n_estimators", n_estimators), ("max_queries", max_queries)):
            if value is not None and value < 1:
                raise UserError(f"--tabicl.{flag}={value}: must be at least 1.")
        self.checkpoint = checkpoint if model_path is None else Path(model_path).name
        self.model_path = obtain(checkpoint_asset(checkpoint, model_path))
        self.preprocessing_name = preprocessing
        self.candidates = candidates
        self.n_estimators = n_estimators
        self.max_queries = max_queries
        self.preprocessing: Preprocessing | None = None
        self._queries: dict[str, LabelledEmbeddings] = {}

    @staticmethod
    def of(trainer: L.Trainer) -> TabICLEvaluation:
        """The one that a Trainer has."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, TabICLEvaluation))

    def state_dict(self) -> dict[str, Any]:
        """The preprocessing's name."""
        return {"preprocessing": self.preprocessing.name if self.preprocessing else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A run that goes on keeps the preprocessing that val chose when it began.

        Raises:
            UserError: another one is asked for.
        """
        before = state_dict["preprocessing"]
        if before is None:
            return
        if self.preprocessing_name not in ("auto", before):
            raise UserError(
                f"--tabicl.preprocessing={self.preprocessing_name}: the checkpoint was made with {before}, which cannot change "
                "when a run goes on. Leave the flag out, or start a new run."
            )
        self.preprocessing_name = before

    def prepare(self, trainer: L.Trainer, module: Distiller, split: str) -> None:
        """Embed train and the split, and choose the preprocessing; a collective call. What is there already stays."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        for name in dict.fromkeys(("train", "val", split)):
            if name not in self._queries:
                images = data.splits[name]
                z = embed_views(
                    module.backbone, images, module.crop_size, num_workers=data.num_workers, what=f"{name} images"
                )
                self._queries[name] = LabelledEmbeddings(z[0], torch.from_numpy(images.labels))
        if self.preprocessing is None:
            if trainer.is_global_zero:
                with isolate_rng():
                    self.preprocessing = self._fit_preprocessing(module)
            self.preprocessing = trainer.strategy.broadcast(self.preprocessing)

    def _fit_preprocessing(self, module: Distiller) -> Preprocessing:
        train, val = self._queries["train"], self._queries["val"]
        if self.preprocessing_name != "auto":
            return fit_preprocessing(self.preprocessing_name, train.z, self.n_estimators)
        preprocessing, accuracy = choose_preprocessing(
            self.candidates, train, self._subset(val), module.ipc, self.model_path, self.n_estimators, module.device
        )
        scores = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
        print(
            f"TabICL preprocessing: {preprocessing.name}, chosen on val with random real contexts ({scores}).",
            flush=True,
        )
        return preprocessing

    def _subset(self, queries: LabelledEmbeddings) -> LabelledEmbeddings:
        """The queries of a validation."""
        if self.max_queries is None or self.max_queries >= len(queries.y):
            return queries
        chosen = torch.randperm(len(queries.y), generator=torch.Generator().manual_seed(0))[: self.max_queries]
        return LabelledEmbeddings(queries.z[chosen], queries.y[chosen])

    def queries(self, split: str) -> LabelledEmbeddings:
        """What is asked of a split, once it is prepared."""
        queries = self._queries[split]
        return self._subset(queries) if split == "val" else queries

    def evaluate(self, rows: ContextRows, split: str, device: torch.device) -> TabICLScore:
        """Fit TabICL on context rows and score it on a split."""
        assert self.preprocessing is not None
        start = time.perf_counter()
        probe = TabICLProbe(Deployment(self.preprocessing, self.checkpoint, self.model_path), device)
        context = LabelledEmbeddings(rows.embeddings.cpu(), rows.labels.cpu())
        probe.fit(context)
        _, measured = score(probe, self.queries(split), context.y.unique().numpy())
        return TabICLScore(measured["accuracy"], measured["cross_entropy"], time.perf_counter() - start)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute what all validations share."""
        assert isinstance(pl_module, Distiller)
        self.prepare(trainer, pl_module, "val")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score on val."""
        if not trainer.sanity_checking:
            self._score_and_log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score on test, for ``train.py test``."""
        self._score_and_log(trainer, pl_module, "test")

    def _score_and_log(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        assert isinstance(module, Distiller)
        self.prepare(trainer, module, split)
        rows = module.context_rows()
        result = None
        if trainer.is_global_zero:
            with isolate_rng():
                result = self.evaluate(rows, split, module.device)
        result = trainer.strategy.broadcast(result)
        assert result is not None
        module.log(f"{split}/tabicl_accuracy", result.accuracy, prog_bar=True)
        module.log(f"{split}/tabicl_cross_entropy", result.cross_entropy)
        module.log(f"{split}/tabicl_seconds", result.seconds, prog_bar=True)
