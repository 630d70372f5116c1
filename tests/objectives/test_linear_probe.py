"""The closed form against autograd, in float64."""

import pytest
import torch
import torch.nn.functional as F

from synthicl.core.memory import saved_bytes
from synthicl.objectives import probe_gradient
from synthicl.objectives.linear_probe import class_balanced_weight


def problem(heads: tuple[int, ...] = (), n: int = 7, d: int = 5, c: int = 3):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, dtype=torch.float64, generator=generator)
    y = torch.randint(0, c, (n,), generator=generator)
    weight = torch.randn(*heads, c, d, dtype=torch.float64, generator=generator)
    bias = torch.randn(*heads, c, dtype=torch.float64, generator=generator)
    return z, y, weight, bias


def by_autograd(z, y, weight, bias, row_weight=None):
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    losses = F.cross_entropy(z @ weight.T + bias, y, reduction="none")
    loss = losses.mean() if row_weight is None else (losses * row_weight).sum()
    return torch.autograd.grad(loss, (weight, bias), create_graph=True)


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_autograd(weighted):
    z, y, weight, bias = problem()
    row_weight = torch.linspace(0.1, 1, len(y), dtype=torch.float64) if weighted else None
    expected = by_autograd(z, y, weight, bias, row_weight)
    actual = probe_gradient(z, y, weight, bias, row_weight)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_heads_are_independent():
    z, y, weight, bias = problem(heads=(2, 4))
    grad_weight, grad_bias = probe_gradient(z, y, weight, bias)
    assert grad_weight.shape == weight.shape
    assert grad_bias.shape == bias.shape
    for i in range(2):
        for j in range(4):
            expected = by_autograd(z, y, weight[i, j], bias[i, j])
            torch.testing.assert_close((grad_weight[i, j], grad_bias[i, j]), expected, rtol=1e-12, atol=1e-14)


def test_derivative_with_respect_to_embeddings_equals_double_backward():
    z, y, weight, bias = problem()
    direction = torch.randn_like(weight)

    def derivative(function):
        leaf = z.clone().requires_grad_()
        grad_weight, grad_bias = function(leaf, y, weight, bias)
        return torch.autograd.grad((grad_weight * direction).sum() + grad_bias.square().sum(), leaf)[0]

    torch.testing.assert_close(derivative(probe_gradient), derivative(by_autograd), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("heads", [(), (2, 4)])
@pytest.mark.parametrize("at_once", [1, 7, 3 * 7 * 8 - 1])
def test_blocks_change_memory_and_nothing_else(heads, at_once):
    z, y, weight, bias = problem(heads)
    targets = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)

    def derivatives(**blocks):
        leaves = z.clone().requires_grad_(), targets.clone().requires_grad_()
        grads = probe_gradient(leaves[0], y, weight, bias, soft_labels=leaves[1], **blocks)
        loss = grads[0].sin().sum() + grads[1].square().sum()
        return *grads, *torch.autograd.grad(loss, leaves)

    torch.testing.assert_close(derivatives(at_once=at_once), derivatives(), rtol=1e-12, atol=1e-14)


def test_blocks_are_not_kept_for_the_backward_pass():
    z, y, weight, bias = problem((4,), n=4000, d=2, c=50)
    z.requires_grad_()
    whole = saved_bytes(lambda: probe_gradient(z, y, weight, bias)[0])
    blocks = saved_bytes(lambda: probe_gradient(z, y, weight, bias, at_once=10_000)[0])
    assert whole > 4 * 4000 * 50 * 8  # a tensor of heads x rows x classes at least
    assert blocks < 4 * 4000 * 3 * 8  # nothing but the rows' embeddings, labels and weights


def test_gradcheck():
    z, y, weight, bias = problem(heads=(2,), n=4, d=3)
    assert torch.autograd.gradcheck(lambda x: probe_gradient(x, y, weight, bias), z.requires_grad_())


def test_class_balanced_weight():
    weight = class_balanced_weight(torch.tensor([0, 0, 0, 2]), num_classes=4)
    torch.testing.assert_close(weight, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
