"""The swap search against all subsets, and learnt prototypes against what they are to beat."""

import itertools

import pytest
import torch

from synthicl.coresets import CORESETS
from synthicl.coresets import swap_search as module
from synthicl.coresets.hard_pairs import hard_pairs
from synthicl.coresets.prototypes import prototypes, starts
from synthicl.coresets.swap_search import ridge_loss, swap_linear, swap_search
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.ridge import RidgeProbe
from synthicl.probes.score import score


def clusters(n, dim=5, seed=0):
    """Overlapping classes 1, 2 and 5."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(n) % 3
    z = 1.5 * torch.eye(3, dim)[which] + torch.randn(n, dim, generator=generator)
    return LabelledEmbeddings(z, torch.tensor([1, 2, 5])[which])


TRAIN = clusters(24)


def test_the_loss_is_that_of_the_ridge_probe():
    rows = TRAIN.at(torch.tensor([0, 1, 2, 6]))
    probe = RidgeProbe()
    probe.fit(rows)
    expected = score(probe, TRAIN, rows.y.unique().numpy())[1]["cross_entropy"]
    assert ridge_loss(TRAIN)(rows) == pytest.approx(expected, rel=1e-5)


def test_it_finds_the_best_of_all_subsets():
    loss = ridge_loss(TRAIN)
    by_class = [(TRAIN.y == label).nonzero().flatten().tolist() for label in (1, 2, 5)]
    least = min(loss(TRAIN.at(torch.tensor(chosen))) for chosen in itertools.product(*by_class))
    found = swap_search(TRAIN, 1, 0, loss, evaluations=600)  # of 512 subsets, some of them several times
    assert loss(found.rows) == pytest.approx(least)
    assert torch.equal(found.rows.z, TRAIN.z[found.indices])
    assert sorted(found.rows.y.tolist()) == [1, 2, 5]


@pytest.mark.parametrize("evaluations", [1, 7, 200])
def test_evaluations_are_spent_exactly_and_no_exchange_makes_it_worse(evaluations):
    asked = []
    loss = ridge_loss(TRAIN)

    def counted(rows):
        asked.append(loss(rows))
        return asked[-1]

    found = swap_search(TRAIN, 2, 3, counted, evaluations)
    assert len(asked) == evaluations
    assert loss(found.rows) == pytest.approx(min(asked))
    assert len(set(found.indices.tolist())) == 6


def test_it_is_a_function_of_its_arguments(monkeypatch):
    monkeypatch.setattr(module, "EVALUATIONS", 80)
    first = swap_linear(TRAIN, 2, 1)
    torch.manual_seed(5)
    assert torch.equal(swap_linear(TRAIN, 2, 1).indices, first.indices)
    assert not torch.equal(swap_linear(TRAIN, 2, 2).indices, first.indices)


def test_classes_without_an_alternative_end_the_search():
    """One image per class: nothing can be exchanged, and every start is the same."""
    found = swap_search(TRAIN.at(torch.arange(3)), 1, 0, lambda rows: 0.0, 10)
    assert found.indices.tolist() == [0, 1, 2]


def test_hard_pairs_by_brute_force():
    chosen = hard_pairs(TRAIN, 2, 0)
    for label in (1, 2, 5):
        others = TRAIN.z[TRAIN.y != label]
        rows = (TRAIN.y == label).nonzero().flatten().tolist()
        expected = sorted(rows, key=lambda i, others=others: float((others - TRAIN.z[i]).norm(dim=1).min()))[:2]
        assert chosen.indices[chosen.rows.y == label].tolist() == expected


def nearest(rows, queries):
    return (rows.y[torch.cdist(queries.z, rows.z).argmin(1)] == queries.y).float().mean()


def test_prototypes_move_the_border_to_where_the_classes_meet():
    """One class on [0, 10], the other on [11, 12]: the border between their means cuts the first."""
    z = torch.cat([torch.linspace(0, 10, 50), torch.linspace(11, 12, 50)])[:, None]
    train = LabelledEmbeddings(z, torch.arange(2).repeat_interleave(50))
    learnt = prototypes(train, 1, 0)
    assert learnt.indices is None and learnt.rows.y.tolist() == [0, 1]
    assert nearest(starts(train, 1, 0), train) < 0.95
    assert nearest(learnt.rows, train) > 0.98


def test_prototypes_do_not_depend_on_place_and_unit():
    train = clusters(60)
    learnt = prototypes(train, 2, 0).rows
    moved = prototypes(train._replace(z=100 * train.z + 7), 2, 0).rows
    torch.testing.assert_close(moved.z, 100 * learnt.z + 7, rtol=1e-2, atol=1.0)


def test_all_of_them_are_there_for_who_asks():
    names = {"swap_linear", "prototypes", "hard_pairs"}
    assert names <= set(CORESETS.names(optional=True)) and not names & set(CORESETS.names())
