"""Checkpoints of a distillation: all images and their optimiser state, whichever ranks hold them.

A checkpoint also says what was distilled from what, and a run that resumes it must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from synthicl.core.distributed import collect_rows
from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule
from synthicl.distillation.checkpoint_files import verify
from synthicl.distillation.images import ImageSettings
from synthicl.distillation.views import Viewer
from synthicl.objectives import Objective

IDENTITY = "distillation"  # what a checkpoint calls it
IMAGES = "images."  # the module that holds them, which checkpoints do not name
FLAGS = {
    "image_size": "model.images.size",
    "parameterisation": "model.images.parameterisation",
    "decorrelate": "model.images.decorrelate",
    "soft_labels": "model.images.soft_labels",
    "crop_size": "model.views.crop_size",
    "data": "data.name",
    "split_seed": "data.split_seed",
    "backbone": "backbone.name",
    "extends": "extend",
}  # of what is not called as its flag is


def identity(
    images: ImageSettings,
    ipc: int,
    viewer: Viewer,
    objective: Objective,
    optimizer: OptimizerCallable,
    data: ImageDataModule,
    seed: int,
    extends: str | None,
) -> dict[str, Any]:
    """What a checkpoint and the run that resumes it must agree on; plain values."""
    return {
        "num_classes": data.num_classes,
        "ipc": ipc,
        "image_size": images.size,
        "parameterisation": images.parameterisation,
        "decorrelate": images.decorrelate,
        "soft_labels": images.soft_labels,
        "seed": seed,
        "optimizer": _describe(optimizer),
        "crop_size": viewer.crop_size,
        "objective": repr(objective),
        "backbone": f"{viewer.backbone.name} {viewer.backbone.fingerprint}",
        "data": data.name,
        "split_seed": data.split_seed,
        "extends": extends,
    }


def _describe(make: OptimizerCallable) -> str:
    """An optimiser's class and settings, the learning rate left out."""
    optimizer = make([torch.zeros(1, requires_grad=True)])
    given = ", ".join(f"{name}={value}" for name, value in optimizer.defaults.items() if name != "lr")
    return f"{type(optimizer).__name__}({given})"


def check_identity(checkpoint: dict[str, Any], own: dict[str, Any]) -> None:
    """Check that a checkpoint is of this run's images.

    Raises:
        UserError: it is not, or of no distillation at all, or is damaged.
    """
    if IDENTITY not in checkpoint:
        raise UserError("--ckpt_path: not a checkpoint of a distillation. Name a file in a run's checkpoints folder.")
    verify(checkpoint)
    saved = {"split_seed": 0} | checkpoint[IDENTITY]  # what it was before it could be chosen
    for name, value in own.items():
        before = saved.get(name, value)  # an older checkpoint may not say
        if before != value:
            raise UserError(
                f"--{FLAGS.get(name, f'model.{name}')}={value}: the checkpoint was made with {before}, which cannot "
                "change when a run resumes. Leave the flag out, or start a new run."
            )


def number_of_levels(checkpoint: dict[str, Any]) -> int:
    """How many levels of the pyramid a checkpoint holds."""
    return sum(name.startswith("pyramid.levels.") for name in checkpoint["state_dict"])


def gather_images(checkpoint: dict[str, Any], total: int, device: torch.device) -> None:
    """Put the rows of all ranks into this rank's checkpoint, on rank 0; a collective call.

    Args:
        checkpoint: holds this rank's rows.
        total: number of images on all ranks.
        device: by whose way they go.
    """
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name.removeprefix(IMAGES): tensor for name, tensor in state.items()}
    _map_rows(checkpoint, lambda rows: collect_rows(rows.to(device), total))


def take_images(checkpoint: dict[str, Any], mine: range) -> None:
    """Leave the rows ``mine`` of a checkpoint that any number of ranks wrote."""
    _map_rows(checkpoint, lambda rows: rows[mine.start : mine.stop].clone())
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name if _learnt(name) else IMAGES + name: tensor for name, tensor in state.items()}


def _learnt(name: str) -> bool:
    """Whether the objective learns it: it is the same on all ranks, and has no rows."""
    return name.startswith("objective.")


def _map_rows(checkpoint: dict[str, Any], function: Callable[[Tensor], Tensor]) -> None:
    """Apply a function to every tensor that has a row for each image, in the state and in that of the optimiser."""
    checkpoint["state_dict"] = {
        name: tensor if _learnt(name) else function(tensor) for name, tensor in checkpoint["state_dict"].items()
    }
    for optimizer in checkpoint.get("optimizer_states", []):
        of_images = optimizer["param_groups"][0]["params"]
        for parameter in set(of_images) & set(optimizer["state"]):
            state = optimizer["state"][parameter]
            optimizer["state"][parameter] = {
                name: function(value) if value.ndim else value for name, value in state.items()
            }
