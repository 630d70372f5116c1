"""One mechanism for memory and for many devices: GradCache.

L. Gao, Y. Zhang, J. Han and J. Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
RepL4NLP 2021, https://arxiv.org/abs/2101.06983, for any loss that is a function of embeddings.

The loss is a function of the embeddings z of all synthetic images and views. A step embeds this rank's rows in chunks
without a graph, gathers z over ranks, computes loss and dloss/dz on z alone, identically on every rank, and runs the
chunks again with a graph to back-propagate each one's slice of dloss/dz. Memory is that of one chunk; what is exchanged
is n x D floats; no collective needs autograd; N ranks compute what one computes. When all rows fit one chunk, the first
forward keeps its graph and nothing is run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from synthicl.core.errors import UserError


def chunks(rows: int, chunk_size: int) -> list[slice]:
    """Consecutive slices of at most ``chunk_size`` rows."""
    return [slice(start, min(start + chunk_size, rows)) for start in range(0, rows, chunk_size)]


def backpropagate_in_chunks(
    embed: Callable[[slice], Tensor],
    rows: int,
    chunk_size: int,
    gather: Callable[[Tensor], Tensor],
    first_row: int,
    loss_of: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], None],
    leaves: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Compute the loss and back-propagate it into whatever ``embed`` depends on.

    Args:
        embed: embeds a slice of this rank's rows, (n, D); called a second time for the same slice when there are
            several chunks, and must give the same again.
        rows: number of rows on this rank.
        chunk_size: most rows that are embedded at once.
        gather: this rank's embeddings -> those of all ranks.
        first_row: where this rank's rows begin among all.
        loss_of: all embeddings -> scalar loss.
        backward: back-propagates a scalar, scaled as mixed precision needs it.
        leaves: what else the loss depends on; like the loss, the same on all ranks.

    Returns:
        The loss, detached, and its gradient with respect to each of ``leaves``.

    Raises:
        UserError: the loss does not depend on the embeddings.
    """
    slices = chunks(rows, chunk_size)
    keep_graph = len(slices) <= 1
    with torch.set_grad_enabled(keep_graph):
        parts = [embed(part) for part in slices]
    local = torch.cat(parts)
    z = gather(local.detach()).requires_grad_()
    loss = loss_of(z)
    gradient, *others = torch.autograd.grad(loss, [z, *leaves], allow_unused=True)
    if gradient is None:
        raise UserError("--model.objective: its loss does not depend on the synthetic embeddings.")
    # What an objective learns may have no part in this step's loss.
    others = [torch.zeros_like(leaf) if found is None else found for leaf, found in zip(leaves, others, strict=True)]
    mine = gradient[first_row : first_row + rows]
    for part in slices:
        embeddings = local if keep_graph else embed(part)
        backward((embeddings * mine[part]).sum())
    return loss.detach(), others
