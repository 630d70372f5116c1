"""What a run costs: said at its start, and logged beside the accuracy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from synthicl.distillation.distiller import Distiller

FIRST, LAST = 2, 5  # steps, counted from where the run begins, between whose ends the clock runs
SECONDS = "train/seconds"


class Cost(L.Callback):
    """Print the expected time and memory after the first steps, and log ``train/seconds`` at each validation.

    These are the seconds that the fit has taken so far, its preparation included (embeddings of real images, the choice
    of a preprocessing), validations left out. A run that resumes continues the count.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._start = 0.0
        self._spent = 0.0
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The seconds spent before the last validation."""
        return {"seconds": self._spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the count from there."""
        self._spent = state_dict["seconds"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it."""
        self._spent += _now(pl_module) - self._since

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what it shows."""
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module.log(SECONDS, self._spent)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start it again."""
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Look at the clock after two steps, and print one line some steps later."""
        self._steps += 1
        if self._steps not in (FIRST, LAST):
            return
        assert isinstance(pl_module, Distiller)
        module = pl_module
        now = _now(module)
        if self._steps == FIRST:
            self._start = now
            return
        if not trainer.is_global_zero:
            return
        step = (now - self._start) / (LAST - FIRST)
        minutes = step * (trainer.max_steps - trainer.global_step) / 60
        line = (
            f"{module.images.total} synthetic images, {trainer.max_steps} steps, at first {step:.3f} s each without "
            f"validation: about {minutes:.1f} min more at that pace. Pyramids, gradients and optimiser state: "
            f"{module.images.complete_bytes / 2**20:.0f} MiB; at most {module.viewer.at_once} views are embedded "
            "at once"
        )
        if module.device.type == "cuda":
            line += f"; at most so far on the device: {torch.cuda.max_memory_allocated(module.device) / 2**20:.0f} MiB"
        progress = trainer.progress_bar_callback
        (progress.print if progress is not None else print)(line + ".")


def seconds_of(run: Path) -> float | None:
    """The seconds that a run's fit had taken at its last validation; None for a folder without TensorBoard's files."""
    if not any(run.glob("events.out.tfevents.*")):
        return None
    events = EventAccumulator(str(run), {SCALARS: 0, IMAGES: 1}).Reload()
    logged = events.Scalars(SECONDS) if SECONDS in events.Tags()[SCALARS] else []
    return float(logged[-1].value) if logged else None


def _now(module: L.LightningModule) -> float:
    """The time when the device has done what it was asked."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()
