"""Several objectives at once, or one after another."""

import pytest
import torch

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives import InContext, LinearGradientMatching, Objective, Ridge, WeightedSum
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import Preprocessing

C = 4


def rows(per_class: int, seed: int) -> LabelledEmbeddings:
    y = torch.arange(C).repeat_interleave(per_class)
    return LabelledEmbeddings(torch.randn(len(y), 6, generator=torch.Generator().manual_seed(seed)), y)


REAL, SYNTHETIC = rows(30, seed=0), rows(1, seed=1)


def loss(objective: Objective, draws: torch.Generator | None = None) -> torch.Tensor:
    return objective(SYNTHETIC, REAL, C, draws or torch.Generator().manual_seed(7))


def test_is_the_sum():
    both = WeightedSum([Ridge(), LinearGradientMatching()], [2.0, 0.5])
    draws = torch.Generator().manual_seed(7)
    expected = 2 * loss(both.terms[0], draws) + 0.5 * loss(both.terms[1], draws)
    torch.testing.assert_close(loss(both), expected)


def test_terms_are_prepared():
    prepared = []

    class Records(LinearGradientMatching):
        def prepare(self, train, deployment, *_):
            prepared.append((train, deployment))

    deployment = Deployment(Preprocessing("raw", 8), "mini", MINI)
    WeightedSum([Records(), LinearGradientMatching(), Records()], [1.0] * 3).prepare(REAL, deployment)
    assert [train is REAL and deployed is deployment for train, deployed in prepared] == [True, True]


def test_a_term_joins_when_its_share_of_the_run_is_over():
    both = WeightedSum([Ridge(), LinearGradientMatching()], [2.0, 0.5], [0.25, 0.0])
    for progress, joined in ((0.0, False), (0.249, False), (0.25, True), (0.9, True)):
        both.advance(progress)
        draws = torch.Generator().manual_seed(7)
        ridge = 2 * loss(both.terms[0], draws) if joined else 0
        torch.testing.assert_close(loss(both), ridge + 0.5 * loss(both.terms[1], draws))


def test_sums_in_sums_learn_how_far_the_run_is():
    inner = WeightedSum([LinearGradientMatching(), Ridge()], [1.0, 1.0], [0.0, 0.5])
    outer = WeightedSum([inner], [1.0])
    outer.advance(0.5)
    torch.testing.assert_close(loss(outer), loss(inner))
    outer.advance(0.4)
    torch.testing.assert_close(loss(outer), loss(inner.terms[0]))


def test_soft_labels_are_for_sums_whose_terms_all_use_them():
    assert WeightedSum([LinearGradientMatching(), Ridge()], [1.0, 1.0]).uses_soft_labels
    assert not WeightedSum([LinearGradientMatching(), InContext()], [1.0, 1.0]).uses_soft_labels


def test_says_what_it_is():
    said = repr(WeightedSum([LinearGradientMatching(), Ridge()], [0.1, 1.0], [0.0, 0.2]))
    assert said.startswith("0.1 LinearGradientMatching(") and " + 1.0 Ridge(" in said
    assert said.endswith("from 0.2 of the run on") and said.count("of the run on") == 1


@pytest.mark.parametrize(
    ("weights", "starts", "message"),
    [
        ([1.0, 2.0], None, r"--model\.objective: 2 weights for 1 terms\. Give one for each"),
        ([1.0], [0.0, 0.5], r"--model\.objective: 2 starts for 1 terms\. Give one for each"),
        ([1.0], [0.2], r"starts=\[0\.2\] must be shares of the run, from 0 to below 1, and one of them 0"),
        ([1.0], [1.0], r"starts=\[1\.0\] must be shares"),
        ([1.0], [-0.1], r"starts=\[-0\.1\] must be shares"),
        ([1.0], [float("nan")], r"starts=\[nan\] must be shares"),
    ],
)
def test_what_does_not_fit_is_refused(weights, starts, message):
    with pytest.raises(UserError, match=message):
        WeightedSum([LinearGradientMatching()], weights, starts)


def test_no_terms_are_refused():
    with pytest.raises(UserError, match="0 weights for 0 terms"):
        WeightedSum([], [])
