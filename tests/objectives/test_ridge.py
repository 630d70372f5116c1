"""Ridge in the loop."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge as ScikitRidge

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import Ridge

C, D = 3, 5


def clusters(per_class: int, seed: int = 0) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(C).repeat_interleave(per_class)
    corners = 2 * torch.randn(C, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return LabelledEmbeddings(corners[y] + torch.randn(len(y), D, generator=generator, dtype=torch.float64), y)


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_equals_the_cross_entropy_of_scikit_learns_ridge():
    real, synthetic = clusters(20), clusters(4, seed=2)
    spread = (synthetic.z - synthetic.z.mean(0)).square().sum(1).mean()
    ridge = ScikitRidge(alpha=0.3 * float(spread)).fit(synthetic.z, F.one_hot(synthetic.y, C).double())
    expected = F.cross_entropy(7 * torch.from_numpy(ridge.predict(real.z)), real.y)
    loss = Ridge(regularisation=0.3, logit_scale=7)(synthetic, real, C, draw())
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_classes_count_the_same_however_many_images_they_have():
    real, synthetic = clusters(20), clusters(4, seed=2)
    repeated = LabelledEmbeddings(torch.cat([real.z, real.z[:20]]), torch.cat([real.y, real.y[:20]]))
    objective = Ridge()
    torch.testing.assert_close(objective(synthetic, repeated, C, draw()), objective(synthetic, real, C, draw()))


def test_gradients_reach_rows_soft_labels_and_what_is_learnt():
    real, synthetic = clusters(20), clusters(2, seed=2)
    objective = Ridge().double()
    z = synthetic.z.clone().requires_grad_()
    targets = (0.7 * F.one_hot(synthetic.y, C) + 0.1).double().requires_grad_()
    objective(LabelledEmbeddings(z, synthetic.y, 1, targets), real, C, draw()).backward()
    for tensor in (z, targets, objective.log_regularisation, objective.log_scale):
        assert tensor.grad.abs().sum() > 0
    assert [p.requires_grad for p in Ridge(learnt=False).parameters()] == [False, False]


def test_rows_that_are_all_the_same_give_a_finite_gradient():
    real = clusters(20)
    z = torch.ones(C, D, dtype=torch.float64, requires_grad=True)
    loss = Ridge()(LabelledEmbeddings(z, torch.arange(C)), real, C, draw())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_descending_goes_past_the_class_means():
    """One direction is noise that the means say nothing about: the rows learn to leave it out."""
    real = clusters(60)
    real = real._replace(z=real.z * torch.tensor([6.0, 1, 1, 1, 1]).double())
    y = torch.arange(C)
    means = torch.stack([real.z[real.y == label].mean(0) for label in range(C)])
    objective, z = Ridge(), means.clone().requires_grad_()
    optimizer = torch.optim.Adam([z, *objective.parameters()], 0.05)
    first = objective(LabelledEmbeddings(z, y), real, C, draw()).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = objective(LabelledEmbeddings(z, y), real, C, draw())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first


@pytest.mark.parametrize("settings", [{"regularisation": 0.0}, {"logit_scale": -1.0}])
def test_message_for_what_has_no_logarithm(settings):
    with pytest.raises(UserError, match="must be greater than 0 and finite"):
        Ridge(**settings)
