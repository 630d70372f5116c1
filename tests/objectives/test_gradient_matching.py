"""Linear gradient matching against the algorithm written out with autograd."""

import pytest
import torch
import torch.nn.functional as F

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import LinearGradientMatching

C, D = 3, 6


def embeddings(n: int, seed: int) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % C
    z = torch.randn(n, D, dtype=torch.float64, generator=generator) + 2 * F.one_hot(y, D)
    return LabelledEmbeddings(z, y)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_equals_the_reference_loop():
    real, synthetic = embeddings(12, 0), embeddings(6, 1)
    objective = LinearGradientMatching(heads=4, balanced=False)
    loss = objective(synthetic, real, C, generator())
    weights, biases = objective.draw_heads(C, real.z, generator())
    assert biases.count_nonzero() == 0
    expected = 0.0
    for weight in weights:
        gradients = []
        for z, y, *_ in (real, synthetic):
            head = weight.clone().requires_grad_(), torch.zeros(C, dtype=torch.float64, requires_grad=True)
            parts = torch.autograd.grad(F.cross_entropy(z @ head[0].T + head[1], y), head)
            gradients.append(torch.cat([part.flatten() for part in parts]))
        expected += 1 - F.cosine_similarity(*gradients, dim=0)
    torch.testing.assert_close(loss, expected / 4, rtol=1e-10, atol=0)


def test_normal_heads_have_the_standard_deviation():
    weight, _ = LinearGradientMatching(heads=400, head_std=0.3).draw_heads(C, torch.ones(2, 16), generator())
    assert weight.std() == pytest.approx(0.3, rel=0.02)
    assert weight.mean().abs() < 0.01


def test_linear_heads_are_those_of_torch():
    weight, bias = LinearGradientMatching(heads=200, head_init="linear").draw_heads(C, torch.ones(2, 16), generator())
    layer = torch.nn.Linear(16, C)
    for drawn, torchs in ((weight, layer.weight), (bias, layer.bias)):
        assert drawn.shape[1:] == torchs.shape
        assert 0.99 * 0.25 < drawn.abs().max() <= 0.25  # 1 / sqrt(16)
        assert torchs.abs().max() <= 0.25
        assert drawn.mean().abs() < 0.02


def test_is_zero_at_the_real_embeddings_and_positive_elsewhere():
    real = embeddings(9, 0)
    objective = LinearGradientMatching()
    assert objective(real, real, C, generator()).abs() < 1e-12
    assert objective(LabelledEmbeddings(-real.z, real.y), real, C, generator()) > 0.1


def test_balanced_does_not_see_class_frequencies():
    real, synthetic = embeddings(9, 0), embeddings(3, 1)
    rows = torch.cat([torch.arange(9), (real.y == 0).nonzero().flatten().repeat(5)])
    unbalanced = LabelledEmbeddings(real.z[rows], real.y[rows])
    losses = {
        balanced: [LinearGradientMatching(balanced=balanced)(synthetic, r, C, generator()) for r in (real, unbalanced)]
        for balanced in (True, False)
    }
    torch.testing.assert_close(*losses[True], rtol=1e-10, atol=0)
    assert (losses[False][0] - losses[False][1]).abs() > 1e-3


def test_logit_std_does_not_see_the_scale_of_the_embeddings():
    real, synthetic = embeddings(9, 0), embeddings(3, 1)
    scaled = [LabelledEmbeddings(100 * part.z, part.y) for part in (synthetic, real)]

    def change(objective: LinearGradientMatching) -> float:
        # the bias's part of the gradient does scale: leave it out by comparing at large embeddings
        large = [LabelledEmbeddings(1e3 * part.z, part.y) for part in (synthetic, real)]
        larger = [LabelledEmbeddings(1e3 * part.z, part.y) for part in scaled]
        return float((objective(*large, C, generator()) - objective(*larger, C, generator())).abs())

    assert change(LinearGradientMatching(logit_std=1.0)) < 1e-6
    assert change(LinearGradientMatching(head_std=1e-4)) > 1e-3


def test_gradient_reaches_every_row():
    real, synthetic = embeddings(9, 0), embeddings(6, 1)
    z = synthetic.z.clone().requires_grad_()
    LinearGradientMatching(heads=2)(LabelledEmbeddings(z, synthetic.y), real, C, generator()).backward()
    assert (z.grad.norm(dim=1) > 0).all()


def test_lands_at_the_class_means():
    """Descent on free vectors finds the centred class means up to scale: what LGM sees for small logits."""
    real = embeddings(60, 0)
    z = torch.randn(C, D, dtype=torch.float64, generator=generator()).requires_grad_()
    optimizer = torch.optim.Adam([z], 0.05)
    for step in range(400):
        draws = torch.Generator().manual_seed(step)
        loss = LinearGradientMatching()(LabelledEmbeddings(z, torch.arange(C)), real, C, draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    means = torch.stack([real.z[real.y == label].mean(0) for label in range(C)])
    cosine = F.cosine_similarity((z - z.mean(0)).flatten(), (means - means.mean(0)).flatten(), dim=0)
    assert cosine > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype(dtype):
    real, synthetic = (LabelledEmbeddings(part.z.to(dtype), part.y) for part in (embeddings(9, 0), embeddings(3, 1)))
    assert LinearGradientMatching()(synthetic, real, C, generator()).dtype == dtype


def test_soft_labels_that_are_one_hot_change_nothing():
    real, synthetic = embeddings(12, 0), embeddings(6, 1)
    hot = F.one_hot(synthetic.y, C).to(synthetic.z)
    soft = synthetic._replace(soft_labels=hot)
    objective = LinearGradientMatching(heads=3)
    torch.testing.assert_close(objective(soft, real, C, generator()), objective(synthetic, real, C, generator()))
