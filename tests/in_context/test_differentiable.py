"""The in-loop forward against the deployed probe, and its gradient against finite differences."""

import numpy as np
import pytest
import torch
from scipy.stats import yeojohnson
from sklearn.preprocessing import PowerTransformer
from tabicl import TabICLClassifier

from synthicl.in_context.checkpoint import MINI
from synthicl.in_context.differentiable import (
    DifferentiableTabICL,
    Member,
    fit_exponents,
    members_of,
    preprocess,
    random_member,
    yeo_johnson,
)


def problem(classes: int, per_class: int, columns: int, queries: int = 9):
    generator = torch.Generator().manual_seed(classes)
    y = torch.arange(classes).repeat(per_class)
    means = 2 * torch.randn(classes, columns, generator=generator)
    context = means[y] + torch.randn(len(y), columns, generator=generator)
    context[0, 0] = 40.0  # an outlier
    return context, y, 2 * torch.randn(queries, columns, generator=generator)


@pytest.mark.parametrize(("classes", "per_class", "columns"), [(10, 1, 8), (3, 12, 5), (2, 40, 4)])
def test_ensemble_equals_the_deployed_classifier(classes, per_class, columns):
    context, y, queries = problem(classes, per_class, columns)
    deployed = TabICLClassifier(8, model_path=MINI, allow_auto_download=False, device="cpu")
    deployed.fit(context.numpy(), y.numpy())
    ours = DifferentiableTabICL(MINI)
    members = members_of(deployed)
    assert {member.power for member in members} == {True, False}
    logits = [ours.logits(context[None], y, queries[None], member)[0] for member in members]
    mean = torch.stack(logits).mean(0)
    probabilities = torch.softmax(mean / deployed.softmax_temperature, -1)
    np.testing.assert_allclose(probabilities.numpy(), deployed.predict_proba(queries.numpy()), atol=2e-5)


@pytest.mark.parametrize("exponent", [-1.5, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_yeo_johnson_equals_scipy(exponent):
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    actual = yeo_johnson(x[None, :, None], torch.full((1, 1, 1), exponent, dtype=torch.float64))
    np.testing.assert_allclose(actual.flatten().numpy(), yeojohnson(x.numpy(), exponent), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(2, 5), (10, 16), (100, 8)])
@pytest.mark.parametrize("skewed", [False, True])
def test_exponents_equal_scikit_learns(rows, columns, skewed):
    x = torch.randn(2, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    x = x.exp() if skewed else x
    expected = [PowerTransformer(standardize=False).fit(context.numpy()).lambdas_ for context in x]
    torch.testing.assert_close(fit_exponents(x)[:, 0], torch.tensor(np.stack(expected)), rtol=0, atol=1e-5)


def test_exponents_of_extreme_columns():
    x = torch.randn(1, 100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, :, 0] = 0.3
    x[0, :, 1] = -0.1
    x[0, 0, 1] = 9.9
    expected = PowerTransformer(standardize=False).fit(x[0].numpy()).lambdas_
    assert expected[0] == 1
    assert expected[1] < -30
    np.testing.assert_allclose(fit_exponents(x)[0, 0].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_equal_rows_give_finite_columns():
    """Images all begin grey where levels begin at zero."""
    queries = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
    for part in preprocess(torch.full((1, 5, 4), 0.7), queries, True, 4.0):
        assert part.isfinite().all()


def test_gradient_of_the_preprocessing():
    context, _, queries = problem(4, 2, 3)
    known, unknown = (part[None].double().requires_grad_() for part in (context, queries))
    assert torch.autograd.gradcheck(lambda a, b: torch.cat(preprocess(a, b, False, 4.0), 1), (known, unknown))


def test_gradient_reaches_the_context_as_finite_differences_say():
    context, y, queries = problem(3, 2, 4)
    tabicl = DifferentiableTabICL(MINI)
    tabicl.model.double()
    for module in tabicl.model.modules():  # tabicl embeds labels in float32, whatever the weights are
        if type(module).__name__ == "OneHotAndLinear":
            module.float()
    member = Member(False, torch.randperm(4), torch.tensor([1, 2, 0]))
    leaf = context[None].double().requires_grad_()

    def loss(rows):
        return tabicl.logits(rows, y, queries[None].double(), member).log_softmax(-1)[..., 0].sum()

    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    direction = torch.randn_like(leaf)
    step = 1e-5
    with torch.no_grad():
        numeric = (loss(leaf + step * direction) - loss(leaf - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-8)


def test_contexts_of_a_batch_are_independent():
    context, y, queries = problem(4, 2, 6)
    tabicl = DifferentiableTabICL(MINI)
    member = random_member(6, 4, torch.Generator().manual_seed(0))
    both = tabicl.logits(torch.stack([context, -context]), y, torch.stack([queries, queries]), member)
    alone = tabicl.logits(-context[None], y, queries[None], member)
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_random_members_cover_shifts_and_both_transforms():
    generator = torch.Generator().manual_seed(0)
    members = [random_member(5, 4, generator) for _ in range(100)]
    assert {int(member.classes[0]) for member in members} == {0, 1, 2, 3}
    assert {member.power for member in members} == {True, False}
    for member in members:
        assert sorted(member.features.tolist()) == [0, 1, 2, 3, 4]
        assert ((member.classes - member.classes[0]) % 4).tolist() == [0, 1, 2, 3]
