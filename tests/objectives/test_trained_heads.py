"""Heads along the training of a probe."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import TrainedHeadGradientMatching, probe_gradient
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing

C, D = 4, 6


def clusters(per_class: int, seed: int = 0) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(C).repeat_interleave(per_class)
    corners = 2 * torch.randn(C, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return LabelledEmbeddings(corners[y] + torch.randn(len(y), D, generator=generator, dtype=torch.float64), y)


def prepared(real: LabelledEmbeddings, **settings) -> TrainedHeadGradientMatching:
    objective = TrainedHeadGradientMatching(**settings)
    objective.prepare(real, Deployment(Preprocessing("raw", 8), "mini", MINI))
    return objective


def test_heads_are_those_of_gradient_descent_on_the_real_embeddings():
    """One snapshot a step: each head is the one before, minus the same multiple of its gradient by autograd."""
    real = clusters(30)
    objective = prepared(real, starts=1, snapshots=9, probe_steps=8 * 3, head_std=0.1)
    weights, biases = objective._weights, objective._biases
    weight, bias = weights[0].clone().requires_grad_(), biases[0].clone().requires_grad_()
    F.cross_entropy(real.z @ weight.T + bias, real.y).backward()
    step = weights[0] - weights[1]
    ratio = step / weight.grad
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-8, atol=0)
    torch.testing.assert_close(biases[0] - biases[1], ratio.mean() * bias.grad, rtol=1e-8, atol=1e-12)


def test_every_trajectory_descends_to_a_good_probe():
    real = clusters(50)
    objective = prepared(real, starts=3, snapshots=8, probe_steps=2000)
    losses = [
        [float(F.cross_entropy(real.z @ w.T + b, real.y)) for w, b in zip(weights, biases, strict=True)]
        for weights, biases in zip(objective._weights.split(3), objective._biases.split(3), strict=True)
    ]
    for earlier, later in pairwise(losses):
        assert all(b < a for a, b in zip(earlier, later, strict=True))
    assert max(losses[-1]) < 0.5 * min(losses[0])


def test_real_embeddings_as_synthetic_ones_have_no_loss_and_class_means_do():
    """At small heads the class means are as good; along the trajectory they are not: the gradient sees more."""
    real = clusters(40)
    objective = prepared(real, heads=64)
    generator = torch.Generator().manual_seed(0)
    assert objective(real, real, C, generator) < 1e-10
    means = torch.stack([real.z[real.y == label].mean(0) for label in range(C)])
    assert objective(LabelledEmbeddings(means, torch.arange(C)), real, C, generator) > 0.02


def test_gradient_reaches_the_synthetic_embeddings():
    real = clusters(20)
    z = torch.randn(C, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    objective = prepared(real, heads=3)
    loss = lambda z: objective(LabelledEmbeddings(z, torch.arange(C)), real, C, torch.Generator().manual_seed(0))  # noqa: E731
    assert torch.autograd.gradcheck(loss, [z])
    assert probe_gradient(real.z, real.y, *objective.draw_heads(C, real.z, torch.Generator().manual_seed(0)))


def test_message_for_snapshots_that_do_not_fit():
    with pytest.raises(UserError, match=r"5 snapshots in 3 probe_steps\. Start at least once, and record"):
        TrainedHeadGradientMatching(snapshots=5, probe_steps=3)


@pytest.mark.parametrize(("snapshots", "probe_steps"), [(2, 50), (9, 9), (5, 1000)])
def test_the_last_head_is_that_of_the_whole_training(snapshots, probe_steps):
    real = clusters(20)
    objective = prepared(real, starts=1, snapshots=snapshots, probe_steps=probe_steps)
    longer = prepared(real, starts=1, snapshots=probe_steps, probe_steps=probe_steps)
    assert torch.equal(objective._weights[-1], longer._weights[-1])
    assert len(objective._weights) <= snapshots
