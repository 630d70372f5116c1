"""Peak memory of a step against the number of images, views and rows in a chunk."""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from shapes import FullSize, distiller, fit, private_cache, random_backbone

from synthicl.report.table import Table


class Peak(L.Callback):
    """Memory when all levels exist and no step was made, and the peak of the steps."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the peak of what came before."""
        gc.collect()
        if pl_module.device.type == "cpu":
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # or memory that was freed would hide what is taken anew
        self.before = _resident(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of the resident set starts anew

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the peak."""
        self.peak = _resident(pl_module.device, peak=True)


def _resident(device: torch.device, peak: bool = False) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    name = "VmHWM" if peak else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def one(name: str, num_classes: int, views: int, chunk_size: int, threads: int) -> dict[str, Any]:
    """Measure one shape in this process, which has measured nothing else."""
    torch.set_num_threads(threads)
    with private_cache():
        module = distiller(random_backbone(name), views=views, chunk_size=chunk_size)
        peak = Peak()
        fit(module, num_classes, 2, [FullSize(), peak])
    # The levels are there before the first step; gradients and both moments come with it.
    later = module.images.complete_bytes * 3 // 4
    shape = {"backbone": name, "classes": num_classes, "views": views, "chunk": chunk_size}
    weights = sum(parameter.nbytes for parameter in module.backbone.parameters())
    return shape | {
        "images": module.images.complete_bytes,
        "beyond": peak.peak - peak.before - later,
        "row": module.viewer.bytes_of_row(module.images),
        "weights": weights,
    }


def measure(shapes: list[tuple[str, int, int, int]]) -> list[dict[str, Any]]:
    """Measure each shape in a process of its own: backbone, classes, views, rows in a chunk."""
    found = []
    for shape in shapes:
        arguments = [*map(str, shape), str(torch.get_num_threads())]
        command = [sys.executable, "-W", "ignore", __file__, *arguments]
        # glibc as it comes: what the package has it keep is not what a step needs.
        environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        found.append(json.loads(output.splitlines()[-1]))
        print(found[-1], flush=True)
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """One row for each shape."""
    body = [
        [
            *(shape["backbone"], str(shape["classes"]), str(shape["views"]), str(shape["chunk"])),
            *(f"{shape[key] / 2**20:.0f}" for key in ("images", "beyond")),
            f"{shape['row'] * shape['chunk'] / 2**20:.0f}",
        ]
        for shape in found
    ]
    header = ["backbone", "images", "views", "chunk", "pyramids, gradients, Adam, MiB", "peak beyond them, MiB"]
    return Table("", [*header, "kept for the backward pass of a chunk, MiB"], body)


if __name__ == "__main__":
    backbone, *numbers = sys.argv[1:]
    print(json.dumps(one(backbone, *map(int, numbers))))
