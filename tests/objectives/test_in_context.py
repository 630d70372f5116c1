"""The in-context objective on clusters, with the bundled TabICL in the loop."""

import pytest
import torch
import torch.nn.functional as F

from synthicl.errors import UserError
from synthicl.in_context.differentiable import random_member
from synthicl.objectives import InContext, LabelledEmbeddings, LinearGradientMatching, WeightedSum

C, D = 4, 6


def clusters(per_class: int, classes: int = C, seed: int = 0) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(per_class)
    corners = 3 * torch.randn(classes, D, generator=torch.Generator().manual_seed(1))
    return LabelledEmbeddings(corners[y] + torch.randn(len(y), D, generator=generator), y)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def prepared(train: LabelledEmbeddings, **settings) -> InContext:
    objective = InContext(protocol="rotated4", **settings)
    objective.prepare(train)
    return objective


def test_equals_the_cross_entropy_written_out():
    real, synthetic = clusters(30), clusters(2, seed=3)
    synthetic = synthetic._replace(views=2)
    objective = prepared(real, queries=5)
    loss = objective(synthetic, real, C, generator())
    draws = generator()
    torch.randperm(C, generator=draws)
    chosen = torch.randint(len(real.y), (2, 5), generator=draws)
    member = random_member(4, C, draws)
    expected = 0.0
    for view in range(2):
        rows = torch.arange(C) * 2 + view
        logits = objective.tabicl.logits(
            objective.protocol(synthetic.z[rows])[None],
            synthetic.y[rows],
            objective.protocol(real.z[chosen[view]])[None],
            member,
        )
        expected += F.cross_entropy(logits[0], real.y[chosen[view]]) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_good_contexts_have_a_lower_loss_than_mislabelled_ones():
    real = clusters(30)
    objective = prepared(real, queries=40)
    means = torch.stack([real.z[real.y == label].mean(0) for label in range(C)])
    good = objective(LabelledEmbeddings(means, torch.arange(C)), real, C, generator())
    bad = objective(LabelledEmbeddings(means.roll(1, 0), torch.arange(C)), real, C, generator())
    assert good < 0.5 < bad


def test_more_classes_than_tabicl_has_outputs():
    """Twelve classes: ten are drawn, the rows of the others get no gradient in this step."""
    real, synthetic = clusters(10, classes=12), clusters(1, classes=12, seed=3)
    z = synthetic.z.clone().requires_grad_()
    objective = prepared(real)
    objective(LabelledEmbeddings(z, synthetic.y), real, 12, generator()).backward()
    assert int((z.grad.norm(dim=1) > 0).sum()) == 10


def test_descent_on_the_context_lowers_the_loss_on_held_out_queries():
    train, held_out = clusters(40), clusters(40, seed=9)
    objective = prepared(train)
    z = torch.randn(C, D, generator=generator()).requires_grad_()
    optimizer = torch.optim.Adam([z], 0.1)

    def loss(real: LabelledEmbeddings, step: int) -> torch.Tensor:
        return objective(LabelledEmbeddings(z, torch.arange(C)), real, C, torch.Generator().manual_seed(step))

    before = torch.stack([loss(held_out, 1000 + i) for i in range(5)]).mean().item()
    for step in range(40):
        optimizer.zero_grad()
        loss(train, step).backward()
        optimizer.step()
    after = torch.stack([loss(held_out, 1000 + i) for i in range(5)]).mean().item()
    assert after < 0.3 * before


def test_weighted_sum_is_the_sum_and_prepares_its_terms():
    real, synthetic = clusters(30), clusters(1, seed=3)
    both = WeightedSum([InContext(protocol="rotated4"), LinearGradientMatching()], [2.0, 0.5])
    both.prepare(real)
    shared = generator()
    loss = both(synthetic, real, C, shared)
    one_by_one = generator()
    expected = 2 * both.terms[0](synthetic, real, C, one_by_one) + 0.5 * both.terms[1](synthetic, real, C, one_by_one)
    torch.testing.assert_close(loss, expected)


def test_weighted_sum_needs_a_weight_for_each_term():
    with pytest.raises(UserError, match=r"--model\.objective: 2 weights for 1 terms\. Give one for each"):
        WeightedSum([LinearGradientMatching()], [1.0, 2.0])
