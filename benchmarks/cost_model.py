"""What a distillation of a dataset of any size would cost: FLOPs, bytes and what devices exchange.

    .venv/bin/python benchmarks/cost_model.py        # writes docs/cost-model.md; a minute, no accelerator

Two constants of each backbone are measured, the FLOPs of a row and what autograd keeps of it; the rest is arithmetic.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

from dataclasses import dataclass
from pathlib import Path

import torch
from shapes import random_backbone
from torch.utils.flop_counter import FlopCounterMode

from synthicl.core.memory import saved_bytes
from synthicl.distillation.pyramid import resolutions
from synthicl.objectives.linear_probe import AT_ONCE
from synthicl.report.table import Table, markdown, number

BACKBONE = "dinov2_vitb14"
SIZE, VIEWS, HEADS, BANK_VIEWS, BANK_BATCH, STEPS = 256, 3, 32, 4, 2048, 2000  # assumed
RATE, RATE_32 = 100e12, 30e12  # FLOP/s that a device sustains in bf16 and in 32 bit: assumptions
DATASETS = {
    "Imagenette": (10, 9_469),
    "ImageNet-100": (100, 126_689),
    "ImageNet-1k": (1_000, 1_281_167),
    "ImageNet-21k": (21_841, 14_197_122),
}
DEVICES = (1, 8, 64)
HELD = ("images", "embeddings", "heads")


@dataclass(frozen=True)
class Constants:
    """Of one backbone, for one row.

    Attributes:
        width: D.
        weights: bytes.
        forward: FLOPs.
        backward: FLOPs of the backward pass to the input.
        kept: bytes that autograd keeps, by precision.
    """

    width: int
    weights: int
    forward: int
    backward: int
    kept: dict[str, int]


def measure(name: str) -> Constants:
    """Count and measure."""
    backbone = random_backbone(name)
    size = backbone.image_size

    def images(rows: int) -> torch.Tensor:
        return torch.rand(rows, 3, size, size, requires_grad=True)

    with FlopCounterMode(display=False) as forward:
        z = backbone(images(1))
    with FlopCounterMode(display=False) as backward:
        z.sum().backward()
    kept = {}
    for precision, enabled in (("32-true", False), ("bf16-mixed", True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            needed = [saved_bytes(lambda rows=rows: backbone(images(rows))) for rows in (1, 2)]  # type: ignore[misc]
        kept[precision] = needed[1] - needed[0]
    weights = sum(parameter.nbytes for parameter in backbone.parameters())
    return Constants(backbone.embed_dim, weights, forward.get_total_flops(), backward.get_total_flops(), kept)


def cost(of: Constants, classes: int, real: int, ipc: int, devices: int) -> dict[str, float]:
    """What one device does and holds; FLOPs and bytes."""
    images = classes * ipc
    rows = images * VIEWS
    mine = -(-images // devices)  # of the device with most
    pyramid = 3 * 4 * sum(resolution**2 for resolution in resolutions(SIZE))
    # Logits and gradient are two products; in the backward pass logits have one more (heads need no gradient), the
    # gradient two, and blocks of rows compute both again. The real side has no backward pass.
    blocks = HEADS * rows * classes > AT_ONCE
    seen = min(-(-BANK_BATCH // classes) * classes, real) * BANK_VIEWS
    objective = 2 * HEADS * classes * of.width * ((7 if blocks else 5) * rows + 2 * seen)
    return {
        "backbone": mine * VIEWS * (2 * of.forward + of.backward),
        "objective": objective,
        "images": mine * pyramid * 4,
        "embeddings": 4 * rows * of.width * 3,  # z, its gradient, and what is gathered
        "heads": 4 * HEADS * classes * of.width * 4,
        "exchanged": 4 * rows * of.width * (devices > 1),
        "bank": real * (BANK_VIEWS + 1) * of.forward / devices,  # and the clean view
        "bank on the host": real * BANK_VIEWS * of.width * 4,
        "checkpoint": images * pyramid * 3,
    }


def tables(of: Constants) -> list[Table]:
    """A step, a run, memory."""
    step, memory = [], []
    for name, (classes, real) in DATASETS.items():
        for ipc in (1, 10):
            each = [cost(of, classes, real, ipc, devices) for devices in DEVICES]
            can = [classes * ipc >= devices for devices in DEVICES]
            one = each[0]
            hours = [STEPS * (of_one["backbone"] / RATE + of_one["objective"] / RATE_32) / 3600 for of_one in each]
            step.append(
                [
                    *(name, str(ipc), f"{classes * ipc * VIEWS:,}"),
                    *(number(value) for value in (one["backbone"] / 1e12, one["objective"] / 1e12)),
                    number(max(of_one["exchanged"] for of_one in each) / 4 / 1e6),
                    *(number(value, 2) if possible else "" for value, possible in zip(hours, can, strict=True)),
                    number(one["bank"] / RATE_32 / 3600, 2),
                ]
            )
            held = [(sum(of_one[key] for key in HELD) + of.weights) / 2**30 for of_one in each]
            memory.append(
                [
                    *(name, str(ipc)),
                    *(number(value) if possible else "" for value, possible in zip(held, can, strict=True)),
                    *(number(one[key] / 2**30) for key in ("heads", "bank on the host", "checkpoint")),
                ]
            )
    header = ["dataset", "ipc", "rows in a step", "backbone, TFLOP", "objective, TFLOP on each device"]
    header += [
        "exchanged, million floats",
        *(f"{STEPS:,} steps on {devices}, h" for devices in DEVICES),
        "bank on 1, h",
    ]
    kept = [
        "dataset",
        "ipc",
        *(f"on each of {devices}, GiB" for devices in DEVICES),
        "of it heads, GiB",
        "bank on the host, GiB",
        "checkpoint, GiB",
    ]
    return [Table("Time", header, step), Table("Memory beside a chunk", kept, memory)]


def main() -> None:
    backbones = ("dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14")
    constants = {name: measure(name) for name in backbones}
    body = [
        [
            *(name, str(of.width), f"{of.weights / 2**20:.0f}"),
            *(f"{value / 1e9:.1f}" for value in (of.forward, of.backward)),
            *(f"{value / 2**20:.0f}" for value in of.kept.values()),
        ]
        for name, of in constants.items()
    ]
    header = ["backbone", "D", "weights, MiB", "forward, GFLOP", "backward to the input, GFLOP"]
    header += [f"kept, {precision}, MiB" for precision in constants[BACKBONE].kept]
    time, memory = tables(constants[BACKBONE])
    parts = [
        "# Cost model",
        "Written by `.venv/bin/python benchmarks/cost_model.py`. What stands behind it, and what it leaves out: "
        f"[scaling.md](scaling.md). Assumed: {SIZE} px, {VIEWS} views, {HEADS} "
        f"heads, {BANK_BATCH:,} bank images with {BANK_VIEWS} views in a step, {STEPS:,} steps, several chunks (two "
        "forwards).",
        "## Measured: one row of 224 px",
        markdown(Table("", header, body)),
        f"## {time.title}: {BACKBONE}",
        f"**A projection.** Hours are FLOPs divided by an assumed rate: {RATE / 1e12:.0f} TFLOP/s of a device in bf16 "
        f"(backbone in a step), {RATE_32 / 1e12:.0f} in 32 bit (objective, bank). No accelerator was at hand. Every "
        "device computes the whole objective. With many classes more devices stop helping; fewer heads help.",
        markdown(time),
        f"## {memory.title}: {BACKBONE}",
        "A device holds the weights, its own pyramids with gradients and two moments of Adam, the embeddings of all "
        "rows, and the heads with their gradients. A chunk gets half of what is left.",
        markdown(memory),
    ]
    path = Path("docs/cost-model.md")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{path} written.")


if __name__ == "__main__":
    main()
