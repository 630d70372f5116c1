"""One progress bar for a run: loss, TabICL's accuracy on val, time left."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class DistillationProgress(TQDMProgressBar):
    """Lightning's bar without what means nothing here: epochs, the run's number, a second bar for validation."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin at the step where the run resumes."""
        self.train_progress_bar.reset(trainer.max_steps)
        self.train_progress_bar.initial = trainer.global_step
        self.train_progress_bar.set_description("Distilling")

    def init_validation_tqdm(self) -> Tqdm:
        """Validation takes a moment and has one batch."""
        return Tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Short names for what is logged."""
        names = {
            "train/loss": "loss",
            "val/tabicl_accuracy": "TabICL accuracy on val",
            "val/tabicl_seconds": "seconds per validation",
        }
        metrics = super().get_metrics(trainer, pl_module)
        return {names[name]: value for name, value in metrics.items() if name in names}
