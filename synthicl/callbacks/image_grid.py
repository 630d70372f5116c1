"""The synthetic images in TensorBoard, at each validation."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from synthicl.context_set import ContextSet
from synthicl.distiller import Distiller
from synthicl.in_context.protocol import Protocol


class ImageGrid(L.Callback):
    """Log a grid of all synthetic images, as 8-bit pixels.

    Args:
        max_images: most images in the grid; the first ones are shown.
    """

    def __init__(self, max_images: int = 100) -> None:
        self.max_images = max_images

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the grid."""
        assert isinstance(pl_module, Distiller)
        images, embeddings, labels = pl_module.context_rows()
        if trainer.sanity_checking or not isinstance(trainer.logger, TensorBoardLogger) or not trainer.is_global_zero:
            return
        names = trainer.datamodule.class_names  # type: ignore[attr-defined]
        shown = slice(self.max_images)
        grid = ContextSet(embeddings[shown], labels[shown], names, Protocol("raw", 8), images[shown]).grid(64)
        trainer.logger.experiment.add_image("synthetic images", grid, trainer.global_step)
