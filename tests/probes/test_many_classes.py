"""More classes than TabICL has outputs: a tree of similar classes for a bundled checkpoint, tabicl's way for others."""

import numpy as np
import pytest
import torch

from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.cached import why_not_kept
from synthicl.tabicl.checkpoint import MINI, VERSIONS
from synthicl.tabicl.class_tree import ClassTree
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing


def task(classes: int) -> tuple[LabelledEmbeddings, torch.Tensor, np.ndarray]:
    """Every class is a point in 8 dimensions, with two rows near it; 50 queries near some points, and their classes."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(classes, 8, generator=generator)
    y = torch.arange(classes).repeat(2)
    z = corners[y] + 0.02 * torch.randn(len(y), 8, generator=generator)
    truth = torch.randint(classes, (50,), generator=generator)
    return LabelledEmbeddings(z, y), corners[truth] + 0.02 * torch.randn(50, 8, generator=generator), truth.numpy()


@pytest.mark.parametrize(("name", "classes", "members", "least"), [("mini", 25, 2, 0.7), ("v2", 25, 2, 0.15)])
def test_probabilities_of_many_classes(name, classes, members, least):
    """The bundled checkpoint was trained with up to ten classes: tabicl's own way is far from perfect with it."""
    context, queries, truth = task(classes)
    deployment = Deployment(fit_preprocessing("raw", context.z, members), VERSIONS.get(name, name), MINI)
    probe = TabICLProbe(deployment, keeps_context=True)
    probe.fit(context)
    assert isinstance(probe.fitted, ClassTree) == (name == "mini")
    assert "there are 25 classes, and TabICL tells 10 apart" in why_not_kept(probe.fitted)
    probabilities = probe.predict_proba(queries)
    assert probabilities.shape == (50, classes)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    assert (probabilities.argmax(1) == truth).mean() > least


class NearestMean:
    """Gives the class of the nearest mean a probability of 0.9; the labels of a node follow each other from 0."""

    def fit(self, columns, labels):
        assert sorted(set(labels)) == list(range(len(set(labels)))) and len(set(labels)) <= 3
        self.means = np.stack([columns[labels == label].mean(0) for label in sorted(set(labels))])
        return self

    def predict_proba(self, columns):
        nearest = ((columns[:, None] - self.means) ** 2).sum(-1).argmin(1)
        others = 0.1 / (len(self.means) - 1)
        return np.where(np.arange(len(self.means)) == nearest[:, None], 0.9, others)


def test_similar_classes_are_told_apart_last():
    """Seven classes on a line, in three bunches: the probability of a class is the product along its path."""
    places = {30: 0.0, 31: 1.0, 12: 10.0, 13: 11.0, 14: 12.0, 5: 20.0, 6: 21.0}
    labels = np.array(list(places))
    columns = np.array(list(places.values()))[:, None]
    tree = ClassTree(NearestMean, 3).fit(columns, labels)
    assert tree.classes_.tolist() == [5, 6, 12, 13, 14, 30, 31]
    bunches = {tuple(tree.classes_[tree.groups_ == group]) for group in range(3)}
    assert bunches == {(5, 6), (12, 13, 14), (30, 31)}
    (found,) = tree.predict_proba(np.array([[11.1]]))
    np.testing.assert_allclose(found, [0.025, 0.025, 0.045, 0.81, 0.045, 0.025, 0.025], atol=0.021)
    np.testing.assert_allclose(found[2:5], [0.9 * 0.05, 0.9 * 0.9, 0.9 * 0.05])
    assert found.sum() == pytest.approx(1)
    assert len(list(tree.learners())) == 4


def test_classes_in_one_place_do_not_go_on_for_ever():
    tree = ClassTree(NearestMean, 3).fit(np.zeros((40, 2)), np.arange(40))
    found = tree.predict_proba(np.zeros((1, 2)))
    assert found.shape == (1, 40) and found.sum() == pytest.approx(1)
