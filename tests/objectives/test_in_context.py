"""The in-context objective on clusters, with the bundled TabICL in the loop."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tabicl._model.tabicl import TabICL

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import InContext, Views
from synthicl.objectives.in_context import draw_rows, draw_with_chances
from synthicl.probes.linear import LinearProbe
from synthicl.tabicl.checkpoint import BUNDLED
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.differentiable import random_member
from synthicl.tabicl.preprocessing import Preprocessing, fit_preprocessing

C, D = 4, 6


def clusters(per_class: int, classes: int = C, seed: int = 0) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(per_class)
    corners = 3 * torch.randn(classes, D, generator=torch.Generator().manual_seed(1))
    return LabelledEmbeddings(corners[y] + torch.randn(len(y), D, generator=generator), y)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def prepared(train: LabelledEmbeddings, **settings) -> InContext:
    objective = InContext(**settings)
    objective.prepare(train, Deployment(fit_preprocessing("rotated4", train.z), "mini", BUNDLED["mini"]))
    return objective


def test_equals_the_cross_entropy_written_out():
    real, synthetic = clusters(30), clusters(2, seed=3)
    synthetic = synthetic._replace(views=2)  # one image a class, twice
    objective = prepared(real, queries=5)
    loss = objective(synthetic, real, C, generator())
    draws = generator()
    torch.randint(1, (), generator=draws)  # which checkpoint
    torch.randperm(C, generator=draws)  # which classes
    draw_rows(torch.arange(C), C, torch.arange(C), draws)
    chosen = draw_with_chances(torch.ones(len(real.y)), 10, draws).view(2, 5)
    member = random_member(4, C, draws)
    expected = 0.0
    for view in range(2):
        rows = torch.arange(C) * 2 + view
        logits = objective._tabicls[0].logits(
            objective._preprocessing(synthetic.z[rows])[None],
            synthetic.y[rows],
            objective._preprocessing(real.z[chosen[view]])[None],
            member,
        )
        expected += F.cross_entropy(logits[0], real.y[chosen[view]]) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_columns_that_are_constant_in_the_context_are_not_seen():
    """Raw rows of a backbone whose features may be zero in all of them: as if there were only the others."""
    real, synthetic = clusters(30), clusters(1, seed=3)
    z = synthetic.z.clone()
    z[:, [0, 4]] = 0.0
    z.requires_grad_()
    objective = prepared(real, queries=5)
    objective._preprocessing = Preprocessing("raw", 8)
    loss = objective(synthetic._replace(z=z), real, C, generator())
    loss.backward()
    assert z.grad.isfinite().all()
    assert [bool(column.any()) for column in z.grad.T] == [False, True, True, True, False, True]

    draws = generator()
    torch.randint(1, (), generator=draws)
    torch.randperm(C, generator=draws)
    draw_rows(torch.arange(C), C, torch.arange(C), draws)
    chosen = draw_with_chances(torch.ones(len(real.y)), 5, draws)
    member = random_member(D, C, draws)
    kept = [1, 2, 3, 5]
    order = torch.tensor([kept.index(column) for column in member.features.tolist() if column in kept])
    rows, queries = z.detach()[None, :, kept], real.z[None, chosen][..., kept]
    logits = objective._tabicls[0].logits(rows, synthetic.y, queries, replace(member, features=order))
    torch.testing.assert_close(loss, F.cross_entropy(logits[0], real.y[chosen]))


def test_context_and_queries_are_of_the_views_that_were_asked_for():
    clean, augmented = clusters(30), clusters(60, seed=5)
    synthetic = clusters(1, seed=3)
    objective = prepared(clean, queries=5, query_view="augmented")
    assert objective.looks_at() == {"clean", "augmented"}
    expected = objective(synthetic, augmented, C, generator())
    seen = objective.loss(Views(synthetic, None), Views(clean, augmented), C, generator())
    assert torch.equal(seen, expected)
    assert not torch.equal(seen, objective(synthetic, clean, C, generator()))
    with pytest.raises(ValueError, match="no augmented views"):
        objective.loss(Views(synthetic), Views(clean), C, generator())


def test_targets_of_the_linear_probe_are_distilled():
    """With one query, the cross-entropy to the probabilities of the classes that the probe tells apart."""
    real, synthetic = clusters(30), clusters(1, seed=3)
    objective = prepared(real, queries=1, targets="linear")
    loss = objective(synthetic, real, C, generator())
    draws = generator()
    torch.randint(1, (), generator=draws)
    torch.randperm(C, generator=draws)
    draw_rows(torch.arange(C), C, torch.arange(C), draws)
    query = real.z[draw_with_chances(torch.ones(len(real.y)), 1, draws)]
    member = random_member(4, C, draws)
    probe = LinearProbe()
    probe.fit(real)
    said = objective._tabicls[0].logits(
        objective._preprocessing(synthetic.z)[None], synthetic.y, objective._preprocessing(query)[None], member
    )
    expected = -(torch.from_numpy(probe.predict_proba(query)) * said[0].log_softmax(-1)).sum()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-4, atol=1e-5)


def test_targets_of_classes_that_are_not_drawn_are_left_out():
    """Twelve classes, ten outputs: the same loss as if the probe knew the ten alone that TabICL is shown."""
    real, synthetic = clusters(10, classes=12), clusters(1, classes=12, seed=3)
    loss = prepared(real, targets="linear")(synthetic, real, 12, generator())
    assert loss.isfinite() and loss > 0
    of_none = real._replace(y=torch.full_like(real.y, 11)).at(torch.arange(3))
    without = [
        prepared(real, targets=targets)(synthetic, of_none, 12, torch.Generator().manual_seed(seed))
        for seed in range(8)
        for targets in ("labels", "linear")
    ]
    assert any(value == 0 for value in without)  # where class 11 was not drawn, no query counts
    assert [bool(value) for value in without[::2]] == [bool(value) for value in without[1::2]]


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


def test_a_step_draws_one_of_the_checkpoints():
    real, synthetic = clusters(30), clusters(1, seed=3)
    both = prepared(real, checkpoints=["mini", str(BUNDLED["mini_1"])])
    single = [prepared(real, checkpoints=[name]) for name in ("mini", "mini_1")]
    seen = set()
    for seed in range(8):
        losses = [
            round(float(objective(synthetic, real, C, torch.Generator().manual_seed(seed))), 4)
            for objective in (both, *single)
        ]
        assert losses[0] in losses[1:]
        seen.add(losses[1:].index(losses[0]))
    assert seen == {0, 1}


def test_recomputing_activations_changes_nothing_but_memory():
    real, synthetic = clusters(30), clusters(4, seed=3)._replace(views=2)
    gradients, losses = [], []
    for recompute in (False, True):
        z = synthetic.z.clone().requires_grad_()
        loss = prepared(real, members=2, recompute=recompute)(synthetic._replace(z=z), real, C, generator())
        loss.backward()
        gradients.append(z.grad)
        losses.append(loss)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_the_number_of_rows_varies_and_is_the_same_for_every_class():
    y = torch.tensor([2, 0, 1] * 3)
    counts, seen = set(), set()
    for seed in range(60):
        rows = draw_rows(y, 3, torch.tensor([0, 2]), torch.Generator().manual_seed(seed))
        assert torch.equal(rows, rows.unique())
        per_class = torch.bincount(y[rows], minlength=3).tolist()
        assert per_class == [per_class[0], 0, per_class[0]]
        counts.add(per_class[0])
        seen |= set(rows.tolist())
    assert counts == {1, 2, 3}
    assert seen == {0, 1, 3, 4, 6, 7}


def test_queries_are_drawn_with_their_chances():
    chance = torch.tensor([0.0, 1, 0, 3, 0])
    drawn = draw_with_chances(chance, 20_000, generator())
    share = torch.bincount(drawn, minlength=5) / len(drawn)
    torch.testing.assert_close(share, chance / 4, rtol=0, atol=0.015)
    assert share[[0, 2, 4]].tolist() == [0, 0, 0]


def test_real_rows_of_none_of_the_classes_of_a_step_count_for_nothing():
    """Twelve classes, of which a step looks at ten: it may miss the only one that a small batch has."""
    real, synthetic = clusters(10, classes=12), clusters(1, classes=12, seed=3)
    objective = prepared(real, queries=5)
    for label in range(12):
        batch = real._replace(z=real.z[real.y == label], y=real.y[real.y == label])
        z = synthetic.z.clone().requires_grad_()
        loss = objective(synthetic._replace(z=z), batch, 12, generator())
        loss.backward()
        drawn_classes = torch.Generator().manual_seed(7)
        torch.randint(1, (), generator=drawn_classes)
        seen = label in torch.randperm(12, generator=drawn_classes)[:10]
        assert (loss > 0) == seen and z.grad.isfinite().all()


@pytest.mark.parametrize("flag", ["queries", "members"])
def test_message_for_none_at_all(flag):
    with pytest.raises(UserError, match=rf"^--model\.objective: {flag}=0 of InContext must be at least 1"):
        InContext(**{flag: 0})


def test_a_tabicl_of_full_size_runs(tmp_path):
    """The layout of v2, 28 M parameters, with random weights: the real ones differ in their numbers alone."""
    torch.manual_seed(0)
    config = {"row_rope_interleaved": False, "zero_init": False}
    model = TabICL(**config)
    assert 27e6 < sum(parameter.numel() for parameter in model.parameters()) < 29e6
    torch.save({"config": config, "state_dict": model.state_dict()}, tmp_path / "v2.ckpt")
    real, synthetic = clusters(30), clusters(1, seed=3)
    z = synthetic.z.clone().requires_grad_()
    objective = prepared(real, checkpoints=[str(tmp_path / "v2.ckpt")], queries=8, recompute=True)
    objective(LabelledEmbeddings(z, synthetic.y), real, C, generator()).backward()
    assert torch.isfinite(z.grad).all()
    assert (z.grad.norm(dim=1) > 0).all()


def test_messages_for_checkpoints_that_are_unknown_or_missing():
    with pytest.raises(UserError, match=r"^--model\.objective: checkpoints=mini_9: unknown\."):
        InContext(checkpoints=["mini_9"])
    with pytest.raises(UserError, match=r"gone\.ckpt\)\. Supply it with --model\.objective: checkpoints=PATH"):
        InContext(checkpoints=["gone.ckpt"])


def test_balanced_queries_count_every_class_the_same():
    """Ninety-seven of a hundred real rows are of one class; only the others' rows move the loss of a balanced draw."""
    real, synthetic = clusters(1), clusters(1, seed=3)
    many = LabelledEmbeddings(
        torch.cat([real.z, real.z[:1].expand(96, -1)]), torch.cat([real.y, real.y[:1].expand(96)])
    )
    by_class = {}
    for balanced in (False, True):
        losses = [
            float(prepared(clusters(30), queries=400, balanced=balanced)(synthetic, part, C, generator()))
            for part in (real, many)
        ]
        by_class[balanced] = abs(losses[0] - losses[1])
    assert by_class[True] < 0.2 * by_class[False]


def test_more_classes_than_outputs_are_noted_and_all_of_them_drawn(capsys):
    """Ten of 25 classes a step: no row of the others has a gradient, and in some steps every class has its turn."""
    generator_of_rows = torch.Generator().manual_seed(0)
    y = torch.arange(25).repeat(4)
    train = LabelledEmbeddings(torch.randn(100, D, generator=generator_of_rows), y)
    objective = prepared(train, queries=40)
    assert "Note: 25 classes, and TabICL has 10 outputs. Each step looks at 10 classes" in capsys.readouterr().out
    seen = set()
    for step in range(16):
        z = train.z[:25].clone().requires_grad_()
        objective(LabelledEmbeddings(z, y[:25]), train, 25, torch.Generator().manual_seed(step)).backward()
        moved = (z.grad != 0).any(1)
        assert int(moved.sum()) == 10
        seen |= set(moved.nonzero().flatten().tolist())
    assert seen == set(range(25))


def test_as_many_classes_as_outputs_are_not_noted(capsys):
    prepared(clusters(4))
    assert "Note" not in capsys.readouterr().out


def test_a_damaged_checkpoint_in_the_loop_is_named(tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"checkpoints=.*bad\.ckpt: not a TabICL checkpoint"):
        InContext(checkpoints=[str(tmp_path / "bad.ckpt")])


def test_double_precision():
    real, synthetic = clusters(30), clusters(1, seed=3)
    z = synthetic.z.double().requires_grad_()
    loss = prepared(real)(LabelledEmbeddings(z, synthetic.y), real._replace(z=real.z.double()), C, generator())
    loss.backward()
    assert loss.dtype == z.grad.dtype == torch.float64
