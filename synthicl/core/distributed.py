"""Images spread over devices: who owns which rows, and gathering rows from all ranks.

Nothing here is differentiated: the loss is computed identically on every rank from the gathered embeddings, and each
rank back-propagates its own slice (``synthicl/distillation/grad_cache.py``).
"""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

# Ranks wait for rank 0 while it scores; scoring takes seconds to minutes.
TIMEOUT = timedelta(minutes=15)


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def owned(total: int, rank: int, ranks: int) -> range:
    """The contiguous block of ``range(total)`` that a rank owns; block sizes differ by one at most."""
    return range(total * rank // ranks, total * (rank + 1) // ranks)


def gather_rows(rows: Tensor, total: int, per_item: int = 1) -> Tensor:
    """Put the blocks of all ranks together; nothing waits for the device.

    Args:
        rows: this rank's block, (n_rank, *): ``per_item`` rows for each item that it owns, see `owned`.
        total: number of owned items on all ranks.
        per_item: rows of each item.

    Returns:
        (total * per_item, *), the same on every rank.
    """
    _, ranks = world()
    if ranks == 1:
        return rows
    counts = [len(owned(total, rank, ranks)) * per_item for rank in range(ranks)]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    blocks = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])


def collect_rows(rows: Tensor, total: int) -> Tensor:
    """Put the blocks of all ranks together in the host's memory of rank 0, for what it shows or writes.

    Args:
        rows: this rank's block, (n_rank, *), on the device.
        total: number of rows on all ranks.

    Returns:
        (total, *) on rank 0; on the others this rank's block; on the CPU.
    """
    return _gather_blocks(rows, total, world()[0] == 0, rows.device)


def gather_on_hosts(rows: Tensor, total: int, device: torch.device) -> Tensor:
    """Put the blocks of all ranks together in every rank's host memory.

    Args:
        rows: this rank's block, (n_rank, *), on the CPU.
        total: number of rows on all ranks.
        device: by whose way they go.

    Returns:
        (total, *), on the CPU, the same on every rank.
    """
    return _gather_blocks(rows, total, True, device)


def _gather_blocks(rows: Tensor, total: int, keep: bool, device: torch.device) -> Tensor:
    """One block after the other, so that a device holds no more than one."""
    me, ranks = world()
    if ranks == 1:
        return rows.cpu()
    blocks = []
    for rank in range(ranks):
        shape = len(owned(total, rank, ranks)), *rows.shape[1:]
        block = rows.to(device).contiguous() if rank == me else torch.empty(shape, dtype=rows.dtype, device=device)
        dist.broadcast(block, rank)
        if keep:
            blocks.append(block.cpu())
    return torch.cat(blocks) if keep else rows.cpu()


class ImageParallelStrategy(DDPStrategy):
    """DDP's launchers and process group without its wrapper.

    Every rank owns other images, so there are no replicas to keep equal: parameters are not broadcast and gradients
    are not averaged. A rank that hears nothing of another for `TIMEOUT` gives up.
    """

    def __init__(self) -> None:
        super().__init__(timeout=TIMEOUT)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""
