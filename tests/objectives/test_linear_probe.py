"""The closed form against autograd, in float64."""

import pytest
import torch
import torch.nn.functional as F

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


def test_gradcheck():
    z, y, weight, bias = problem(heads=(2,), n=4, d=3)
    assert torch.autograd.gradcheck(lambda x: probe_gradient(x, y, weight, bias), z.requires_grad_())


def test_class_balanced_weight():
    weight = class_balanced_weight(torch.tensor([0, 0, 0, 2]), num_classes=4)
    torch.testing.assert_close(weight, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
