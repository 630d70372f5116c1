"""The way from the host's memory onto a device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the host's memory to where a step runs, without waiting for what runs there.

    From memory that is not pinned, CUDA would wait for the device even where it is asked not to.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
