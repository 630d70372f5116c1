"""The closed form against scikit-learn, and where it could go wrong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from synthicl.core.ridge import ridge_weights


def problem(n=7, dim=5, classes=3, seed=0, dtype=torch.float64):
    """Embeddings far from the origin, and one-hot targets of unequal classes."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, dtype=dtype, generator=generator) + 3
    return z, F.one_hot(torch.randint(classes, (n,), generator=generator), classes).to(dtype)


@pytest.mark.parametrize(("n", "dim"), [(4, 9), (9, 4), (6, 6), (5, 6), (6, 5)])
@pytest.mark.parametrize("regularisation", [1e-3, 0.1, 10.0])
def test_equals_scikit_learn(n, dim, regularisation):
    z, targets = problem(n, dim)
    weight, bias = ridge_weights(z, targets, regularisation)
    alpha = regularisation * sum(float(((row - z.mean(0)) ** 2).sum()) for row in z) / n
    theirs = Ridge(alpha=alpha).fit(z.numpy(), targets.numpy())
    assert (weight.shape, bias.shape) == ((dim, 3), (3,))
    np.testing.assert_allclose(weight.T, theirs.coef_, atol=1e-9)
    np.testing.assert_allclose(bias, theirs.intercept_, atol=1e-9)


def test_one_row_scores_its_target():
    z, targets = problem(1, 3)
    weight, bias = ridge_weights(z, targets, 0.1)
    assert weight.abs().max() == 0
    torch.testing.assert_close(z @ weight + bias, targets)


def test_dual_equals_primal():
    """A column of zeros changes nothing but the side of the system that is solved."""
    z, targets = problem(6, 5)
    primal, bias = ridge_weights(z, targets, 0.1)
    dual, same_bias = ridge_weights(torch.cat([z, torch.zeros(6, 1, dtype=z.dtype)], 1), targets, 0.1)
    torch.testing.assert_close(dual[:5], primal, rtol=0, atol=1e-10)
    torch.testing.assert_close(same_bias, bias, rtol=0, atol=1e-10)
    assert dual[5].abs().max() == 0


@pytest.mark.parametrize(("n", "dim"), [(4, 6), (6, 4)])
def test_gradients(n, dim):
    z, targets = problem(n, dim)
    regularisation = torch.tensor(0.1, dtype=torch.float64)
    inputs = tuple(part.requires_grad_() for part in (z, targets, regularisation))
    assert torch.autograd.gradcheck(ridge_weights, inputs)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_regularisation_has_no_unit(factor):
    z, targets = problem()
    weight, bias = ridge_weights(z, targets, 0.1)
    other, same_bias = ridge_weights(z * factor, targets, 0.1)
    torch.testing.assert_close(other * factor, weight)
    torch.testing.assert_close(same_bias, bias)


def test_a_shift_changes_no_score():
    z, targets = problem()
    weight, bias = ridge_weights(z, targets, 0.1)
    other, other_bias = ridge_weights(z + 5, targets, 0.1)
    torch.testing.assert_close(other, weight)
    torch.testing.assert_close((z + 5) @ other + other_bias, z @ weight + bias)


def rounding(n, dim):
    """The same row, but for the last bit of some entries."""
    row = torch.full((dim,), 3.3)
    rows = row.repeat(n, 1)
    rows[::2, 0] = torch.nextafter(row[0], torch.tensor(9.0))
    return rows


CASES = {
    "duplicates": lambda n, dim: problem(2, dim)[0].repeat((n + 1) // 2, 1)[:n],
    "all equal": lambda n, dim: problem(1, dim)[0].repeat(n, 1),
    "equal but for rounding": rounding,
    "all zero": lambda n, dim: torch.zeros(n, dim),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(4, 6), (6, 4)])
@pytest.mark.parametrize("case", CASES)
def test_collapsed_rows_give_finite_values_and_gradients(case, n, dim, dtype):
    z = CASES[case](n, dim).to(dtype).requires_grad_()
    targets = problem(n, dim, dtype=dtype)[1].requires_grad_()
    regularisation = torch.tensor(0.1, dtype=dtype, requires_grad=True)
    weight, bias = ridge_weights(z, targets, regularisation)
    queries = problem(9, dim, seed=1, dtype=dtype)[0]
    loss = F.cross_entropy(queries @ weight + bias, torch.arange(9) % 3)
    gradients = torch.autograd.grad(loss, (z, targets, regularisation))
    assert all(torch.isfinite(part).all() for part in (weight, bias, *gradients))
    assert (weight.dtype, bias.dtype) == (dtype, dtype)
    if case in {"all equal", "all zero"}:
        torch.testing.assert_close(weight, torch.zeros_like(weight), rtol=0, atol=1e-6)
        torch.testing.assert_close(z @ weight + bias, targets.mean(0).expand(n, -1))


def test_equal_rows_count_as_often_as_they_come():
    z, targets = problem(5, 3)
    weight, _ = ridge_weights(z.repeat(2, 1), targets.repeat(2, 1), 0.2)
    once, _ = ridge_weights(z, targets, 0.1)
    torch.testing.assert_close(weight, once)


def test_float32_and_autocast_lose_little():
    """The system is solved in float64 whatever surrounds it."""
    z, targets = problem(40, 60)
    expected, _ = ridge_weights(z, targets, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        weight, _ = ridge_weights(z.float(), targets.float(), 0.1)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, expected.float(), rtol=1e-4, atol=1e-6)
