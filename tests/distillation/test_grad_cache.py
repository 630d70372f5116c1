"""Chunks change memory, not the result."""

import pytest
import torch

from synthicl.core.errors import UserError
from synthicl.distillation.grad_cache import backpropagate_in_chunks, chunks


@pytest.mark.parametrize(("rows", "size", "expected"), [(5, 2, [(0, 2), (2, 4), (4, 5)]), (4, 4, [(0, 4)]), (0, 3, [])])
def test_chunks_cover_all_rows_once(rows, size, expected):
    assert [(part.start, part.stop) for part in chunks(rows, size)] == expected


def test_gradient_and_loss_do_not_depend_on_the_chunk_size():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    start = torch.randn(7, 4, dtype=torch.float64, generator=generator)

    def step(chunk_size: int):
        x = start.clone().requires_grad_()
        graphs = []

        def embed(part: slice) -> torch.Tensor:
            graphs.append(torch.is_grad_enabled())
            return torch.tanh(x[part] @ weight)

        loss, _ = backpropagate_in_chunks(
            embed, 7, chunk_size, lambda z: z, 0, lambda z: (z.T @ z).square().sum(), lambda scalar: scalar.backward()
        )
        return loss, x.grad, graphs

    whole_loss, whole_gradient, whole_graphs = step(7)
    assert whole_graphs == [True]  # nothing is run twice
    for chunk_size in (1, 3):
        loss, gradient, graphs = step(chunk_size)
        torch.testing.assert_close(loss, whole_loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, whole_gradient, rtol=1e-12, atol=0)
        assert graphs.count(True) == graphs.count(False) == len(chunks(7, chunk_size))


def test_a_leaf_without_a_part_in_the_loss_gets_zeros():
    x, scale, unused = torch.ones(2, 1, requires_grad=True), torch.tensor(2.0), torch.ones(3, requires_grad=True)
    leaves = [scale.requires_grad_(), unused]
    _, gradients = backpropagate_in_chunks(
        lambda part: x[part], 2, 2, lambda z: z, 0, lambda z: scale * z.sum(), torch.Tensor.backward, leaves
    )
    assert [gradient.tolist() for gradient in gradients] == [2, [0, 0, 0]]


def test_a_loss_that_leaves_the_embeddings_out_is_refused():
    x, scale = torch.ones(2, 1, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with pytest.raises(UserError, match="does not depend on the synthetic embeddings"):
        backpropagate_in_chunks(
            lambda part: x[part], 2, 2, lambda z: z, 0, lambda z: scale * 1, torch.Tensor.backward, [scale]
        )


def test_other_leaves_get_their_gradient_once():
    scale = torch.tensor(2.0, requires_grad=True)
    x = torch.arange(3.0)[:, None].requires_grad_()
    loss, (gradient,) = backpropagate_in_chunks(
        lambda part: x[part] + 1, 3, 2, lambda z: z, 0, lambda z: scale * z.sum(), torch.Tensor.backward, [scale]
    )
    assert loss == 12
    assert gradient == 6
    assert scale.grad is None  # the caller's to use
    assert x.grad.tolist() == [[2.0]] * 3
