import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from synthicl.probes.conformal import highest_level, prediction_sets, threshold
from synthicl.probes.score import chance_of_truth

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mapie.classification import SplitConformalClassifier


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose queries are their probabilities."""

    def __init__(self, classes=4):
        self.classes_ = np.arange(classes)
        self.is_fitted_ = True
        self.n_features_in_ = classes

    def fit(self, X, y):  # noqa: N803
        return self

    def predict_proba(self, X):  # noqa: N803
        return X

    def predict(self, X):  # noqa: N803
        return X.argmax(1)


def world(n, seed=0, classes=4):
    """Probabilities (n, C) that are too certain by half, and classes."""
    random = np.random.default_rng(seed)
    calibrated = random.dirichlet(np.full(classes, 0.6), n)
    truth = (calibrated.cumsum(1) < random.random((n, 1))).sum(1).clip(max=classes - 1)
    sharp = calibrated**1.5
    return sharp / sharp.sum(1, keepdims=True), truth


def nonconformity(probabilities, truth):
    return 1 - chance_of_truth(probabilities, truth, np.arange(probabilities.shape[1]))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_sets_are_those_of_mapie_and_what_it_leaves_empty_holds_the_answer(level):
    (held_out, truth), (new, _) = world(199), world(300, seed=1)
    mapie = SplitConformalClassifier(Given(), confidence_level=level, conformity_score="lac", prefit=True)
    mapie.conformalize(held_out, truth)
    expected = mapie.predict_set(new)[1][:, :, 0]
    found = prediction_sets(new, threshold(nonconformity(held_out, truth), level))
    some = expected.any(1)
    assert (found[some] == expected[some]).all()
    assert (found[~some] == (np.arange(4) == new[~some].argmax(1)[:, None])).all()
    assert some.any() and (level > 0.5 or not some.all())


@pytest.mark.parametrize(("n", "level"), [(39, 0.8), (99, 0.9), (57, 0.95)])
def test_a_new_image_is_held_as_often_as_is_asked_for_and_hardly_more(n, level):
    held = []
    for seed in range(1500):
        probabilities, truth = world(n + 20, seed)
        scores = nonconformity(probabilities, truth)
        held.append((scores[n:] <= threshold(scores[:n], level)).mean())
    mean, error = np.mean(held), np.std(held) / len(held) ** 0.5
    assert level - 3 * error <= mean <= level + 1 / (n + 1) + 3 * error


def test_the_rank_is_that_of_the_formula():
    scores = np.random.default_rng(0).permutation(99) / 100
    assert [threshold(scores, level) for level in (0.01, 0.5, 0.95, 0.99)] == [0.0, 0.49, 0.94, 0.98]


def test_too_few_images_put_every_class_into_every_set():
    probabilities, truth = world(18)
    scores = nonconformity(probabilities, truth)
    assert highest_level(18) < 0.95 and threshold(scores, 0.95) == np.inf
    assert prediction_sets(probabilities, threshold(scores, 0.95)).all()
    assert threshold(scores, highest_level(18)) == scores.max()
