"""The in-loop forward against the deployed probe, and its gradient against finite differences."""

import warnings
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import yeojohnson
from sklearn.preprocessing import PowerTransformer
from tabicl import TabICLClassifier
from tabicl._sklearn.preprocessing import PreprocessingPipeline, UniqueFeatureFilter

from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.differentiable import (
    DifferentiableTabICL,
    Member,
    columns_shown,
    fit_exponents,
    members_of,
    preprocess,
    random_member,
    varying,
    yeo_johnson,
)


def problem(classes: int, per_class: int, columns: int, queries: int = 9):
    generator = torch.Generator().manual_seed(classes)
    y = torch.arange(classes).repeat(per_class)
    means = 2 * torch.randn(classes, columns, generator=generator)
    context = means[y] + torch.randn(len(y), columns, generator=generator)
    context[0, 0] = 40.0  # an outlier
    return context, y, 2 * torch.randn(queries, columns, generator=generator)


def wrapper(context: torch.Tensor, y: torch.Tensor) -> TabICLClassifier:
    deployed = TabICLClassifier(8, model_path=MINI, allow_auto_download=False, device="cpu")
    return deployed.fit(context.numpy(), y.numpy())


def probabilities(deployed, members, context, y, queries):
    """The mean over members, by the in-loop forward."""
    ours = DifferentiableTabICL(MINI)
    logits = [ours.logits(context[None], y, queries[None], member)[0] for member in members]
    return torch.softmax(torch.stack(logits).mean(0) / deployed.softmax_temperature, -1).numpy()


@pytest.mark.parametrize(("classes", "per_class", "columns"), [(10, 1, 8), (3, 12, 5), (2, 40, 4)])
def test_ensemble_equals_the_deployed_classifier(classes, per_class, columns):
    context, y, queries = problem(classes, per_class, columns)
    deployed = wrapper(context, y)
    members = members_of(deployed)
    assert {member.power for member in members} == {True, False}
    expected = deployed.predict_proba(queries.numpy())
    np.testing.assert_allclose(probabilities(deployed, members, context, y, queries), expected, atol=2e-5)


def constants(columns: int, case: str) -> list[int]:
    """Which columns of a context are made constant."""
    return {"some": [1, 4, 5], "all but one": [*range(2), *range(3, columns)], "all": [*range(columns)]}[case]


@pytest.mark.parametrize("case", ["some", "all but one", "all"])
@pytest.mark.parametrize(("classes", "per_class", "columns"), [(10, 1, 8), (3, 6, 9)])
def test_columns_that_are_constant_in_the_context_are_dropped_as_the_wrapper_does(classes, per_class, columns, case):
    """Queries vary in them: a forward that keeps them gives something else."""
    context, y, queries = problem(classes, per_class, columns)
    for number, column in enumerate(constants(columns, case)):
        context[:, column] = (0, 0.75, -2)[number % 3]
    deployed = wrapper(context, y)
    members = members_of(deployed)
    # Where all columns are constant the wrapper keeps the first.
    kept = [column for column in range(columns) if column not in constants(columns, case)] or [0]
    assert all(sorted(member.features.tolist()) == kept for member in members)
    expected = deployed.predict_proba(queries.numpy())
    np.testing.assert_allclose(probabilities(deployed, members, context, y, queries), expected, atol=2e-5)

    # A member of all columns, as the objective draws it, is one of the rest.
    first = members[0].features.tolist()
    rest = [column for column in range(columns) if column not in first]
    ours = DifferentiableTabICL(MINI)
    wide = replace(members[0], features=torch.tensor([*rest, *first]))
    logits = [ours.logits(context[None], y, queries[None], member) for member in (wide, members[0])]
    assert torch.equal(*logits)


def test_rectified_embeddings_in_raw_rows():
    """Ten rows of a backbone that ends in a ReLU: columns are zero in all of them, and not in the queries."""
    generator = torch.Generator().manual_seed(0)
    context, queries = ((torch.randn(n, 40, generator=generator) - 1.2).relu() for n in (10, 20))
    y = torch.arange(10)
    assert 5 < (context == 0).all(0).sum() < 20
    deployed = wrapper(context, y)
    found = probabilities(deployed, members_of(deployed), context, y, queries)
    np.testing.assert_allclose(found, deployed.predict_proba(queries.numpy()), atol=2e-5)


def test_contexts_that_keep_other_columns_are_one_batch_of_forwards():
    context, y, queries = problem(4, 2, 6)
    other = context.clone()
    other[:, [0, 3]] = 1.0
    tabicl = DifferentiableTabICL(MINI)
    member = random_member(6, 4, torch.Generator().manual_seed(0))
    batch = torch.stack([context, other, context]), y, queries.expand(3, -1, -1), member
    alone = [(rows[None], y, queries[None], member) for rows in batch[0]]
    for forward in (tabicl.logits, tabicl.attention):
        torch.testing.assert_close(forward(*batch), torch.cat([forward(*each) for each in alone]))
    reordered = replace(member, features=torch.tensor([c for c in member.features.tolist() if c not in (0, 3)]))
    assert torch.equal(tabicl.logits(*alone[1]), tabicl.logits(*alone[1][:3], reordered))


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("case", ["some", "all"])
def test_gradient_of_constant_columns(power, case):
    """What the model does not see has none; the rest has one, as the context without those columns."""
    context, y, queries = problem(4, 2, 7)
    context[:, constants(7, case)] = 0.75
    member = replace(random_member(7, 4, torch.Generator().manual_seed(0)), power=power)
    tabicl = DifferentiableTabICL(MINI)
    leaves = [part[None].clone().requires_grad_() for part in (context, queries)]
    tabicl.logits(leaves[0], y, leaves[1], member).log_softmax(-1)[..., 0].sum().backward()
    kept = [0] if case == "all" else [column for column in range(7) if column not in constants(7, case)]
    dropped = [column for column in range(7) if column not in kept]
    for leaf in leaves:
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[..., dropped].any()
    assert leaves[0].grad[..., kept].any(1).all()

    narrow = [part[None, :, kept].clone().requires_grad_() for part in (context, queries)]
    order = torch.tensor([kept.index(column) for column in member.features.tolist() if column in kept])
    tabicl.logits(narrow[0], y, narrow[1], replace(member, features=order)).log_softmax(-1)[..., 0].sum().backward()
    for leaf, part in zip(leaves, narrow, strict=True):
        torch.testing.assert_close(leaf.grad[..., kept], part.grad)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_which_columns_vary_equals_the_wrappers_filter(rows):
    generator = torch.Generator().manual_seed(rows)
    contexts = torch.randint(2, (20, rows, 4), generator=generator).float() * torch.tensor([1, -0.0, 1, 0.5])
    contexts[0] = 3.0
    expected = [UniqueFeatureFilter().fit(context.numpy()).features_to_keep_ for context in contexts]
    assert varying(contexts).tolist() == np.stack(expected).tolist()


def test_random_members_order_the_columns_that_vary_like_the_wrapper():
    """Any order of them with the same chance: 3,000 draws, six orders, five standard errors."""
    context = torch.zeros(1, 2, 5)
    context[:, 1, [1, 2, 4]] = 1.0
    generator = torch.Generator().manual_seed(0)
    draws = [tuple(columns_shown(context, random_member(5, 4, generator))[0]) for _ in range(3000)]
    counts = [draws.count(order) for order in permutations([1, 2, 4])]
    assert sum(counts) == 3000
    assert max(abs(count - 500) for count in counts) < 5 * (3000 / 6 * 5 / 6) ** 0.5


def pipeline(context: torch.Tensor, queries: torch.Tensor) -> list[np.ndarray]:
    """The wrapper's preprocessing with the power transform."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = PreprocessingPipeline("power", 4.0).fit(context.numpy())
        return [fitted.X_transformed_, fitted.transform(queries.numpy())]


@pytest.mark.parametrize("rows", ["one", "equal", "nearly equal"])
def test_preprocessing_of_extreme_contexts_equals_the_wrappers(rows):
    """One row; equal rows, whose columns are not scaled; rows so near that the power transform of queries overflows."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(50, 6, generator=generator)
    context = {
        "one": torch.randn(1, 6, generator=generator),
        "equal": torch.full((8, 6), 0.75),
        "nearly equal": torch.randn(10, 6, generator=generator) * 1e-8,
    }[rows]
    leaves = [part[None].clone().requires_grad_() for part in (context, queries)]
    found = preprocess(*leaves, True, 4.0)
    for part, expected in zip(found, pipeline(context, queries), strict=True):
        np.testing.assert_allclose(part[0].detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    sum(part.square().sum() for part in found).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    if rows == "nearly equal":
        standardised = [
            (part[None] - context.mean(0)) / (context.std(0, correction=0) + 1e-6) for part in (context, queries)
        ]
        exponents = fit_exponents(standardised[0])
        assert not yeo_johnson(standardised[1].clamp(-100, 100), exponents).isfinite().all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("rows", [10, 20, 100])
def test_exponents_of_a_feature_that_is_active_in_one_row(rows, sign):
    """In float32 scipy's bounds are nearer than the maximum of the likelihood."""
    x = torch.zeros(1, rows, 3)
    x[:, 0, 0], x[:, 0, 1], x[:, :, 2] = sign, 100.0 * sign, 1 + torch.arange(rows).float().exp2().clamp_max(1e6)
    x[:, :, :2] -= x[:, :, :2].mean(1, keepdim=True)
    x /= x.std(1, keepdim=True)
    x[:, :, 2] *= sign
    expected = PowerTransformer(standardize=False).fit(x[0].numpy()).lambdas_
    np.testing.assert_allclose(fit_exponents(x)[0, 0].numpy(), expected, rtol=0.01)
    double = PowerTransformer(standardize=False).fit(x[0].double().numpy()).lambdas_
    np.testing.assert_allclose(fit_exponents(x.double())[0, 0].numpy(), double, rtol=1e-5)
    assert rows == 10 or abs(double[0] - expected[0]) > 1


@pytest.mark.parametrize("exponent", [-3.0, 0.0, 1.0, 2.0, 5.0])
def test_yeo_johnson_has_slope_1_at_0(exponent):
    x = torch.zeros(1, 3, 1, dtype=torch.float64, requires_grad=True)
    yeo_johnson(x, torch.full((1, 1, 1), exponent, dtype=torch.float64)).sum().backward()
    assert x.grad.flatten().tolist() == [1, 1, 1]


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
