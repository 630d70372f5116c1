"""Memory: how much there is, and how much a forward pass keeps for its backward pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from synthicl.core.errors import UserError

V1 = ("limit_in_bytes", "usage_in_bytes")  # of control groups
SHARE = 0.5  # of the free memory; what lives for a moment took up to 0.6 of what is kept, and allocators leave gaps


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that ``forward`` keeps for its backward pass, each storage counted once.

    Parameters and inputs that exist anyway are among them: what grows with the batch is the difference between two
    batches.
    """
    storages: dict[int, int] = {}
    kept = []  # a storage that was freed could be counted under the address of another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.append(storage)
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storages.values())


def free_bytes(device: torch.device) -> int:
    """Memory of a device that this process may still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    available: int = psutil.virtual_memory().available
    return min(available, _free_in_control_group())


def _free_in_control_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """What a container or a batch system leaves; a large number where there is no limit.

    Both versions of Linux's control groups; what is kept of files counts as free, since it is given up when needed.
    """
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    places = {controllers: path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)}
    versions = (root, places.get(""), "max", "current"), (root / "memory", places.get("memory"), *V1)
    free = 2**62
    for top, path, limit, used in versions:
        for folder in () if path is None else (top / path, *(top / path).parents):
            limit_file, used_file, statistics = (folder / f"memory.{name}" for name in (limit, used, "stat"))
            if limit_file.is_file() and used_file.is_file() and limit_file.read_text().strip() != "max":
                of_files = re.search(r"^(?:total_)?inactive_file (\d+)", statistics.read_text(), re.M)
                reclaimed = int(of_files[1]) if of_files else 0
                free = min(free, int(limit_file.read_text()) - int(used_file.read_text()) + reclaimed)
    return free


def largest_chunk(rows: int, per_row: int, device: torch.device, kept: int = 0, sharers: int = 1) -> int:
    """How many rows can be embedded at once.

    Args:
        rows: how many there are.
        per_row: bytes that the backward pass of one row needs.
        device: where.
        kept: bytes that must stay free for other things.
        sharers: processes that share the device's memory.

    Returns:
        All rows, if they fit; or the largest power of two that does: nearly free memory then gives the same number.

    Raises:
        UserError: not even one row fits.
    """
    free = free_bytes(device) // sharers
    fits = int(SHARE * (free - kept)) // max(per_row, 1)
    if fits < 1:
        raise UserError(
            f"--trainer.devices: {free / 2**30:.1f} GiB are free on {device}, and this run's images need "
            f"{kept / 2**30:.1f} GiB with their gradients and optimiser state, and {per_row / 2**30:.2f} GiB for each "
            "image that is embedded. Use more devices, or lower --model.images.size or --model.ipc; "
            "--model.views.chunk_size=1 tries it all the same."
        )
    return rows if fits >= rows else 1 << (fits.bit_length() - 1)
