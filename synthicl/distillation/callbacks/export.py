"""The artefact at the end of a fit: the last state of the schedule, and beside it the one that was best on val.

Each is calibrated on val with its own rows.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.seed import isolate_rng

from synthicl import __version__
from synthicl.artefact.context_set import BEST, ContextSet
from synthicl.core.errors import UserError
from synthicl.core.files import file_fingerprint
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.callbacks.tabicl_evaluation import TabICLEvaluation
from synthicl.distillation.checkpoint_files import SCORE, read_checkpoint
from synthicl.distillation.distiller import Distiller
from synthicl.distillation.frozen import identity_of
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.calibrated import calibrate
from synthicl.probes.novelty import Novelty, fit_novelty
from synthicl.probes.tabicl import TabICLProbe


class Export(L.Callback):
    """Save the context set into the run's folder when a fit has come to its end.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export the last state, then the checkpoint with the best accuracy on val; a collective call.

        Raises:
            UserError: no step was made.
        """
        assert isinstance(pl_module, Distiller)
        if not trainer.global_step:
            raise UserError(
                f"{self.folder}: the run ended before its first step, so there is nothing to export. Leave "
                "--trainer.max_time out, or raise it."
            )
        evaluation = TabICLEvaluation.of(trainer)
        novelty = fit_novelty(evaluation.embedded(trainer, pl_module, "train").z)
        val = evaluation.queries(trainer, pl_module, "val")
        self._export(trainer, pl_module, self.folder, "last", trainer.global_step, val, novelty)
        best = next(
            callback.best_model_path
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback.monitor == SCORE
        )
        if not best:  # the run was never validated
            return
        checkpoint = read_checkpoint(best, best)
        pl_module.setup("validate")
        pl_module.on_load_checkpoint(checkpoint)
        pl_module.load_state_dict(checkpoint["state_dict"], strict=False)
        pl_module.images.to(pl_module.device)
        self._export(trainer, pl_module, self.folder / BEST, BEST, int(checkpoint["global_step"]), val, novelty)

    @staticmethod
    def _export(
        trainer: L.Trainer,
        module: Distiller,
        folder: Path,
        checkpoint: str,
        steps: int,
        val: LabelledEmbeddings,
        novelty: Novelty,
    ) -> None:
        rows, images = module.viewer.context(module.images).cpu(), module.images.collect(module.viewer.at_once)
        if not trainer.is_global_zero:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        deployment, extended = module.deployment, module.extended
        with isolate_rng():
            probe = TabICLProbe(deployment, module.device)
            probe.fit(rows)
            calibration = calibrate(probe, rows.y.unique().numpy(), val, novelty)
        metadata: dict[str, Any] = {
            "dataset": data.name,
            "dataset_licence": data.licence,
            "split_seed": data.split_seed,
            "backbone": module.backbone.name,
            "backbone_weights": module.backbone.fingerprint,
            "backbone_licence": module.backbone.licence,
            "crop_size": module.viewer.crop_size,
            "objective": repr(module.objective),
            "real": module.real_settings.source,
            "ipc": module.ipc,
            "seed": module.seed,
            "steps": steps,
            "checkpoint": checkpoint,
            "tabicl_checkpoint": deployment.checkpoint,
            "tabicl_weights": file_fingerprint(deployment.model_path),
            **({} if extended is None else {"extends": identity_of(extended), "frozen": len(extended.labels)}),
            "versions": {"synthicl": __version__, **{name: version(name) for name in ("torch", "timm", "tabicl")}},
        }
        ContextSet(
            embeddings=rows.z,
            labels=rows.y,
            class_names=data.class_names,
            preprocessing=deployment.preprocessing,
            images=images.cpu(),
            metadata=metadata,
            soft_labels=rows.soft_labels,
            calibration=calibration,
        ).save(folder)
