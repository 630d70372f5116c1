"""The synthetic images in TensorBoard, at each validation."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from synthicl.artefact.picture import image_grid
from synthicl.distillation.distiller import Distiller


class ImageGrid(L.Callback):
    """Log a grid of the synthetic images, as 8-bit pixels."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the grid."""
        assert isinstance(pl_module, Distiller)
        images = pl_module.images.collect(pl_module.viewer.at_once)
        if trainer.sanity_checking or not isinstance(trainer.logger, TensorBoardLogger) or not trainer.is_global_zero:
            return
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        grid = image_grid(images, [names[label] for label in pl_module.images.all_labels.tolist()])
        trainer.logger.experiment.add_image("synthetic images", grid, trainer.global_step)
