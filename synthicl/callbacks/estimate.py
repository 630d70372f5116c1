"""What a run will cost, said at its start."""

from __future__ import annotations

import time

import lightning as L
import torch

from synthicl.distiller import Distiller

FIRST, LAST = 2, 5  # steps, counted from where the run begins, between whose ends the clock runs


class Estimate(L.Callback):
    """Time the first steps as they are and print the expected time and memory; the images are not touched."""

    def __init__(self) -> None:
        self._steps = 0
        self._start = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Look at the clock after two steps, and print one line."""
        self._steps += 1
        if self._steps not in (FIRST, LAST):
            return
        assert isinstance(pl_module, Distiller)
        module = pl_module
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        if self._steps == FIRST:
            self._start = time.perf_counter()
            return
        if not trainer.is_global_zero:
            return
        step = (time.perf_counter() - self._start) / (LAST - FIRST)
        minutes = step * (trainer.max_steps - trainer.global_step) / 60
        images = module.num_images * 3 * module.image_size**2 * 4
        held = images * (1 + 3 * 4 / 3) / 2**20  # decoded once; pyramid (4/3 of an image) with two Adam moments
        line = (
            f"{module.num_images} synthetic images, {trainer.max_steps} steps, about {step:.3f} s each without "
            f"validation: about {minutes:.1f} min more. Images, pyramids and optimiser state: {held:.0f} MiB"
        )
        if module.device.type == "cuda":
            line += f"; at most so far on the device: {torch.cuda.max_memory_allocated(module.device) / 2**20:.0f} MiB"
        progress = trainer.progress_bar_callback
        (progress.print if progress is not None else print)(line + ".")
