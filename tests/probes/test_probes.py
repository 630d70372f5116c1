"""Probes against the libraries behind them, on the bundled TabICL, and what all of them promise."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from tabicl import TabICLClassifier
from torch import nn

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import PROBES, probe_factory, tabicl
from synthicl.probes.knn import KNNProbe
from synthicl.probes.linear import C, LinearProbe
from synthicl.probes.nearest_class_mean import NearestClassMeanProbe
from synthicl.probes.probe import ProbeSetting
from synthicl.probes.ridge import LOGIT_SCALE, REGULARISATION, RidgeProbe
from synthicl.probes.supplied import PACKAGES
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing


class Pixels(nn.Module):
    """A backbone whose embeddings are the pixels."""

    image_size, embed_dim = 8, 3 * 8 * 8

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.5))

    def forward(self, images):
        return (images - self.mean).flatten(1)


def pictures(y, noise=40.0, seed=0):
    """An image (3, 8, 8), uint8, for each label (n,): a pattern for each class, and noise."""
    patterns = torch.randint(60, 196, (10, 3, 8, 8), generator=torch.Generator().manual_seed(7))
    difference = noise * torch.randn(len(y), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (patterns[y] + difference).clamp(0, 255).to(torch.uint8)


def embedded(images):
    return Pixels()(images / 255)


Y = torch.arange(20) % 4
TRUTH = torch.arange(40) % 4
IMAGES, Z, QUERIES = pictures(Y), embedded(pictures(Y)), embedded(pictures(TRUTH, seed=1))
CONTEXT = LabelledEmbeddings(Z, Y)
SETTING = ProbeSetting(Deployment(fit_preprocessing("rotated3", Z, 2), "mini", MINI), backbone=Pixels())


def tabicl_probe(preprocessing="rotated3", members=2, **options):
    return TabICLProbe(Deployment(fit_preprocessing(preprocessing, Z, members), "mini", MINI), **options)


def test_linear_equals_scikit_learn():
    probe = LinearProbe()
    probe.fit(CONTEXT)
    theirs = LogisticRegression(C=1.0, max_iter=5000).fit(Z.numpy(), Y.numpy())
    assert C == 1.0
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), theirs.predict_proba(QUERIES.numpy()))


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_says_what_its_weights_say(classes):
    """Of two classes scikit-learn keeps one column."""
    probe = LinearProbe()
    probe.fit(CONTEXT.at(torch.arange(len(Y))[classes > Y]))
    weight, bias = probe.logit_weights()
    assert weight.shape == (Z.shape[1], classes)
    said = (QUERIES @ weight + bias).softmax(1)
    np.testing.assert_allclose(said, probe.predict_proba(QUERIES), atol=1e-5)


def test_ridge_equals_scikit_learn():
    probe = RidgeProbe()
    probe.fit(CONTEXT)
    alpha = REGULARISATION * float((Z - Z.mean(0)).square().sum(1).mean())
    theirs = Ridge(alpha=alpha).fit(Z.double().numpy(), np.eye(4)[Y])
    exponentials = np.exp(LOGIT_SCALE * theirs.predict(QUERIES.double().numpy()))
    expected = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(probe.predict_proba(QUERIES), expected, atol=1e-4)


@pytest.mark.parametrize(("rows", "neighbours"), [(4, 1), (8, 2), (15, 3), (16, 4), (20, 5)])
def test_knn_looks_at_no_more_than_the_smallest_class_has(rows, neighbours):
    """15 rows are 4, 4, 4 and 3."""
    probe = KNNProbe()
    probe.fit(CONTEXT.at(torch.arange(rows)))
    theirs = KNeighborsClassifier(neighbours).fit(Z[:rows].numpy(), Y[:rows].numpy())
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), theirs.predict_proba(QUERIES.numpy()))
    many = KNNProbe()
    many.fit(LabelledEmbeddings(Z.repeat(3, 1), Y.repeat(3)))
    assert many.classifier.n_neighbors == 5


def test_nearest_class_mean_equals_scikit_learn():
    probe = NearestClassMeanProbe()
    probe.fit(CONTEXT.at(torch.arange(15)))
    theirs = NearestCentroid().fit(Z[:15].numpy(), Y[:15].numpy())
    probabilities = probe.predict_proba(QUERIES)
    np.testing.assert_array_equal(probabilities.argmax(1), theirs.predict(QUERIES.numpy()))
    likelihoods = np.exp([[-float(((query - mean) ** 2).sum()) for mean in theirs.centroids_] for query in QUERIES])
    np.testing.assert_allclose(probabilities, likelihoods / likelihoods.sum(1, keepdims=True), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("preprocessing", ["raw", "pca3"])
def test_tabicl_equals_its_own_classifier(preprocessing):
    probe = tabicl_probe(preprocessing)
    probe.fit(CONTEXT)
    columns = fit_preprocessing(preprocessing, Z)
    theirs = TabICLClassifier(
        n_estimators=2, model_path=MINI, allow_auto_download=False, device="cpu", random_state=42
    ).fit(columns(Z).numpy(), Y.numpy())
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), theirs.predict_proba(columns(QUERIES).numpy()))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_chunks_of_queries_change_nothing(monkeypatch, size):
    probe = tabicl_probe()
    probe.fit(CONTEXT)
    whole = probe.predict_proba(QUERIES)
    monkeypatch.setattr(tabicl, "QUERY_CHUNK", size)
    np.testing.assert_allclose(probe.predict_proba(QUERIES), whole, atol=1e-5)


SHIPPED = [*PROBES.names(), "linear_reference"]
every_probe = pytest.mark.parametrize("make", [probe_factory(name) for name in SHIPPED], ids=SHIPPED)


def test_what_the_package_ships():
    assert PROBES.names() == ["knn", "linear", "nearest_class_mean", "ridge", "tabicl"]
    assert set(PROBES.names(optional=True)) - set(PROBES.names()) == {"linear_reference", *PACKAGES}
    for name in SHIPPED:
        probe = probe_factory(name)(SETTING)
        assert probe.name == name
        assert probe.needs_images == (name == "linear_reference")
        assert (probe.preprocessing is SETTING.deployment.preprocessing) == (name == "tabicl")


def test_message_for_an_unknown_probe():
    with pytest.raises(
        UserError, match=r"^--probes=svm: unknown\. Choose one of: comb, .*linear, .*tabdpt, tabicl, tabpfn\.$"
    ):
        probe_factory("svm")


@every_probe
@pytest.mark.parametrize("labels", [[7, 0, 4, 9], [2, 5, 7]])
def test_columns_follow_the_sorted_labels_gaps_included(make, labels):
    labels = torch.tensor(labels)
    rows, queries = Y.lt(len(labels)), TRUTH.lt(len(labels))
    plain, gaps = make(SETTING), make(SETTING)
    # the same classes, numbered without gaps
    plain.fit(LabelledEmbeddings(Z[rows], labels.argsort().argsort()[Y[rows]]), IMAGES[rows])
    gaps.fit(LabelledEmbeddings(Z[rows], labels[Y[rows]]), IMAGES[rows])
    probabilities = gaps.predict_proba(QUERIES[queries])
    assert probabilities.shape == (10 * len(labels), len(labels))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities, plain.predict_proba(QUERIES[queries]))
    predicted = labels.sort().values.numpy()[probabilities.argmax(1)]
    assert (predicted == labels[TRUTH[queries]].numpy()).mean() > 0.8


@every_probe
def test_fitting_again_forgets_and_repeats(make):
    probe = make(SETTING)
    probe.fit(CONTEXT, IMAGES)
    first = probe.predict_proba(QUERIES)
    probe.fit(LabelledEmbeddings(-Z[:18], Y[:18].flip(0)), 255 - IMAGES[:18])
    assert not np.array_equal(probe.predict_proba(QUERIES), first)
    probe.fit(CONTEXT, IMAGES)
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), first)


@every_probe
def test_one_row_for_each_class_is_enough(make):
    probe = make(SETTING)
    images = pictures(torch.arange(4), noise=0)
    probe.fit(LabelledEmbeddings(embedded(images), torch.arange(4)), images)
    assert (probe.predict_proba(QUERIES).argmax(1) == TRUTH.numpy()).mean() > 0.6


@every_probe
def test_vectors_are_enough_for_all_that_do_not_ask_for_images(make):
    probe, same = make(SETTING), make(SETTING)
    if probe.needs_images:
        with pytest.raises(ValueError, match="is fitted on images, and this context has none"):
            probe.fit(CONTEXT)
        return
    probe.fit(CONTEXT)
    same.fit(CONTEXT, IMAGES)
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), same.predict_proba(QUERIES))


@every_probe
def test_inside_inference_mode_nothing_changes(make):
    probe, inside = make(SETTING), make(SETTING)
    probe.fit(CONTEXT, IMAGES)
    with torch.inference_mode():
        inside.fit(LabelledEmbeddings(Z * 1, Y + 0), IMAGES + 0)
        probabilities = inside.predict_proba(QUERIES * 1)
    np.testing.assert_array_equal(probabilities, probe.predict_proba(QUERIES))


def test_message_for_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "notes.ckpt"
    path.write_text("x")
    with pytest.raises(UserError, match=r"^--tabicl\.model_path=.*notes\.ckpt: not a TabICL checkpoint"):
        TabICLProbe(Deployment(fit_preprocessing("raw", Z), "mini", path))


@pytest.mark.parametrize("name", ["linear", "ridge"])
def test_soft_labels_that_are_one_hot_are_labels(name):
    z, y = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    hard, soft = (probe_factory(name)(None) for _ in range(2))
    hard.fit(LabelledEmbeddings(z, y))
    soft.fit(LabelledEmbeddings(z, y.flip(0), soft_labels=torch.nn.functional.one_hot(y, 3).float()))
    np.testing.assert_allclose(soft.predict_proba(z), hard.predict_proba(z), atol=1e-3)
    soft.fit(LabelledEmbeddings(z, y, soft_labels=torch.full((12, 3), 1 / 3)))  # labels that say nothing
    np.testing.assert_allclose(soft.predict_proba(z), 1 / 3, atol=1e-4)
