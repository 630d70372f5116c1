"""Images spread over devices: who owns which rows, and gathering rows from all ranks.

Nothing here is differentiated: the loss is computed identically on every rank from the gathered embeddings, and each
rank back-propagates its own slice (see ``chunking.py``).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def owned(total: int, rank: int, ranks: int) -> range:
    """The contiguous block of ``range(total)`` that a rank owns; block sizes differ by one at most."""
    return range(total * rank // ranks, total * (rank + 1) // ranks)


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """Put the blocks of all ranks together.

    Args:
        rows: this rank's block, (n_rank, *), where the ranks' blocks are `owned` of ``total`` or a multiple of it.
        total: number of owned items; a rank that owns k items brings the same multiple of k rows.

    Returns:
        (n, *), the same on every rank.
    """
    rank, ranks = world()
    if ranks == 1:
        return rows
    counts = [len(owned(total, r, ranks)) for r in range(ranks)]
    multiple = torch.tensor([len(rows) // counts[rank] if counts[rank] else 0], device=rows.device)
    dist.all_reduce(multiple, dist.ReduceOp.MAX)  # a rank that owns nothing cannot know it
    per_item = int(multiple)
    padded = rows.new_zeros(max(counts) * per_item, *rows.shape[1:])
    padded[: len(rows)] = rows
    blocks = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(blocks, padded)
    return torch.cat([block[: count * per_item] for block, count in zip(blocks, counts, strict=True)])


class ImageParallelStrategy(DDPStrategy):
    """DDP's launchers and process group without its wrapper.

    Every rank owns other images, so there are no replicas to keep equal: parameters are not broadcast and gradients
    are not averaged.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is."""
