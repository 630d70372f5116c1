"""What a run will cost, said at its start."""

from __future__ import annotations

import time

import lightning as L
import torch

from synthicl.distiller import Distiller


class Estimate(L.Callback):
    """Measure the backbone on one chunk and print the expected time and memory."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print one line; the images are not touched."""
        assert isinstance(pl_module, Distiller)
        module = pl_module
        rows = len(module.mine) * module.views
        chunk = min(rows, module.chunk_size)
        size = module.crop_size
        pixels = torch.rand(chunk, 3, size, size, device=module.device, dtype=module.backbone.mean.dtype)
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)
        seconds = []
        for _ in range(3):
            leaf = pixels.clone().requires_grad_()
            start = time.perf_counter()
            with trainer.precision_plugin.train_step_context():
                module.backbone(leaf).float().sum().backward()
            if module.device.type == "cuda":
                torch.cuda.synchronize(module.device)
            seconds.append(time.perf_counter() - start)
        again = 4 / 3 if rows > chunk else 1  # chunked: a second forward
        online = 1 / 3 if module.real == "online" else 0  # a forward of as many real images
        step = min(seconds) * (again + online) * rows / chunk
        minutes = step * (trainer.max_steps - trainer.global_step) / 60
        if not trainer.is_global_zero:
            return
        images = module.num_images * 3 * module.image_size**2 * 4
        held = images * (1 + 3 * 4 / 3) / 2**20  # decoded once; pyramid (4/3 of an image) with two Adam moments
        line = (
            f"{module.num_images} synthetic images, {trainer.max_steps} steps, about {step:.2f} s each without "
            f"validation: about {minutes:.1f} min. Images, pyramids and optimiser state: {held:.0f} MiB"
        )
        if module.device.type == "cuda":
            line += f"; one chunk of {chunk}: {torch.cuda.max_memory_allocated(module.device) / 2**20:.0f} MiB"
        print(line + ".", flush=True)
