"""What a step costs beside the backbone's own forward and backward pass on the same batch."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import numpy as np
import torch
from shapes import FullSize, distiller, fit, private_cache, random_backbone
from torch import Tensor

from synthicl.distillation.distiller import Distiller
from synthicl.report.table import Table

BANK = 9469  # training images of Imagenette


class StepTimes(L.Callback):
    """Time the steps of a run."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first step."""
        self._start = _now(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """A step has ended, and the next one starts."""
        now = _now(pl_module.device)
        self.steps.append(now - self._start)
        self._start = now


class Interleaved(StepTimes):
    """After each step time the bare backbone on a batch of the same shape and precision."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.forward: list[float] = []
        self.backward: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """A step has ended; the next one starts when the bare passes are through."""
        super().on_train_batch_end(trainer, pl_module)
        assert isinstance(pl_module, Distiller)
        device = pl_module.device
        size, at_once = pl_module.viewer.crop_size, pl_module.viewer.at_once
        images = torch.rand(self.rows, 3, size, size, device=device)
        direction = torch.rand(self.rows, pl_module.backbone.embed_dim, device=device)

        def forward(part: Tensor) -> Tensor:
            with trainer.precision_plugin.forward_context():
                z: Tensor = pl_module.backbone(part)
            return z

        with torch.autocast(device.type, enabled=False):
            start = _now(device)
            with torch.no_grad():
                for part in images.split(at_once):
                    forward(part)
            middle = _now(device)
            for part, along in zip(
                *(both.split(pl_module.viewer.at_once) for both in (images, direction)), strict=True
            ):
                z = forward(part.requires_grad_())
                z.backward(along.to(z.dtype))
            self._start = _now(device)
        self.forward.append(middle - start)
        self.backward.append(self._start - middle)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(shapes: list[tuple[str, int, int, str, int]], steps: int) -> list[dict[str, Any]]:
    """Time each shape: backbone, classes, views (0 for the clean image), precision, chunks."""
    found = []
    with private_cache():
        for name, num_classes, views, precision, parts in shapes:
            rows = num_classes * max(views, 1)
            module = distiller(random_backbone(name), views=views, chunk_size=-(-rows // parts))
            timer = Interleaved(rows)
            fit(module, num_classes, steps + 1, [FullSize(BANK), timer], precision)
            step, forward, both = (np.median(times[1:]) for times in (timer.steps, timer.forward, timer.backward))
            bare = both if parts == 1 else forward + both
            found.append(
                {
                    "backbone": name,
                    "rows": rows,
                    "views": views,
                    "precision": precision,
                    "chunks": parts,
                    "steps": steps,
                }
                | {"step": float(step), "bare": float(bare), "ratio": float(step / bare)}
            )
            print(found[-1], flush=True)
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """One row for each shape."""
    body = [
        [
            *(one["backbone"], str(one["rows"]), str(one["views"]), one["precision"], str(one["chunks"])),
            f"{one['step']:.4g}",
            f"{one['bare']:.4g}",
            f"{one['ratio']:.3f}",
        ]
        for one in found
    ]
    header = ["backbone", "rows", "views", "precision", "chunks", "step, s", "bare, s", "ratio"]
    return Table("", header, body)
