"""Maps against single predictions, attention against brute force."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.boundary.compute import attention_by_class, boundary, decision_map, fit_plane, map_axes
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.differentiable import DifferentiableTabICL, members_of
from synthicl.tabicl.preprocessing import fit_preprocessing

NAMES = ["a", "b c", "ä"]
SMALL = {"contexts": ("random", "class_mean"), "resolution": 5}


def clusters(n, classes=3, dim=6, seed=0):
    """Embeddings (n, dim) around a corner for each class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return LabelledEmbeddings(torch.eye(classes, dim)[y] * 3 + torch.randn(n, dim, generator=generator), y)


TRAIN, TEST = clusters(60), clusters(25, seed=2)


@pytest.fixture
def toy(tmp_path):
    """A function that makes a subject of toy splits, with a synthetic context set."""

    def make(name="toy", test=TEST):
        settings = of_subject("digits", {"tabicl.n_estimators": 2})[1]
        subject = Subject(tmp_path / name, settings, _embedded={"train": TRAIN, "val": TRAIN, "test": test})
        about = {"dataset": "digits", "backbone": "mini", "backbone_weights": FrozenBackbone("mini").fingerprint}
        about |= {"objective": "Toy", "tabicl_checkpoint": "mini"}
        z, y = clusters(6, seed=9).z, torch.tensor([0, 0, 1, 1, 2, 2])
        synthetic = ContextSet(z, y, NAMES, fit_preprocessing("rotated4", TRAIN.z, 2), metadata=about)
        subject.context_sets = {"last": synthetic, "best_on_val": synthetic}
        subject.data = SimpleNamespace(class_names=NAMES)
        subject.fingerprint = "toy"
        return subject

    return make


@pytest.fixture
def mapped(toy):
    subject, results = toy(), Results()
    boundary(subject, results, **SMALL)
    return subject, results


def test_the_plane_is_that_of_the_first_two_principal_components():
    plane, theirs = fit_plane(TRAIN.z), PCA(2).fit(TRAIN.z.double().numpy())
    np.testing.assert_allclose(plane.mean, theirs.mean_, atol=1e-5)
    np.testing.assert_allclose((plane.directions.T.numpy() * theirs.components_).sum(1).__abs__(), 1, atol=1e-5)
    np.testing.assert_allclose(plane.variance, theirs.explained_variance_ratio_, rtol=1e-4)
    points = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    torch.testing.assert_close(plane.project(plane.lift(points)), points, atol=1e-5, rtol=0)
    assert torch.equal(plane.lift(points)[0], plane.mean)


def test_the_map_covers_the_projections_but_for_the_farthest():
    points = torch.stack([torch.arange(101.0), torch.linspace(-1, 1, 101)], 1)
    x, y = map_axes(points, 7)
    assert (x[0], x[-1], len(x)) == (pytest.approx(1 - 9.8), pytest.approx(99 + 9.8), 7)
    assert (y[0], y[-1]) == (pytest.approx(-0.98 - 0.196), pytest.approx(0.98 + 0.196))


def test_every_point_is_what_tabicl_predicts_there(mapped):
    """Point by point, lifted by scikit-learn's PCA."""
    subject, results = mapped
    pca = PCA(2).fit(TRAIN.z.double().numpy())
    signs = np.sign((pca.components_ * fit_plane(TRAIN.z).directions.T.numpy()).sum(1))
    synthetic = subject.context_sets["last"]
    probe = TabICLProbe(Deployment(synthetic.preprocessing, "mini", MINI))
    probe.fit(synthetic.rows)
    (row,) = results.select(context="synthetic")
    predicted, confidence = (results.arrays[f"boundary/{name}/{row.key}"] for name in ("class", "confidence"))
    for j, y in enumerate(results.arrays["boundary/y"]):
        for i, x in enumerate(results.arrays["boundary/x"]):
            z = torch.from_numpy(pca.inverse_transform(signs * [[x, y]])).float()
            (p,) = probe.predict_proba(z)
            assert predicted[j, i] == p.argmax()
            assert confidence[j, i] == pytest.approx(p.max(), abs=1e-4)


def test_classes_that_a_context_lacks():
    context = clusters(8, classes=2)
    probe = TabICLProbe(Deployment(fit_preprocessing("rotated4", TRAIN.z, 1), "mini", MINI))
    probe.fit(context._replace(y=torch.tensor([2, 5])[context.y]))
    axes = map_axes(fit_plane(TRAIN.z).project(TEST.z), 4)
    assert set(np.unique(decision_map(probe, fit_plane(TRAIN.z), axes, np.array([2, 5]))[0])) <= {2, 5}


def test_attention_by_brute_force(mapped, monkeypatch):
    subject, results = mapped
    synthetic = subject.context_sets["last"]
    probe = TabICLProbe(Deployment(synthetic.preprocessing, "mini", MINI))
    columns, queries = synthetic.preprocessing(synthetic.embeddings), synthetic.preprocessing(TEST.z)
    members = members_of(probe.classifier().fit(columns.numpy(), synthetic.labels.numpy()))
    assert len(members) == 2
    tabicl = DifferentiableTabICL(MINI)
    (row,) = results.select(context="synthetic")
    found = results.arrays[f"boundary/attention/{row.key}"]
    assert found.shape == (4, 3, 6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    for label in range(3):
        each = [
            tabicl.attention(columns[None], synthetic.labels, query[None, None], member)[0, :, 0]
            for query in queries[TEST.y == label]
            for member in members
        ]
        np.testing.assert_allclose(found[:, label], torch.stack(each).mean(0), rtol=1e-3, atol=1e-5)
    monkeypatch.setattr("synthicl.studies.boundary.compute.QUERY_CHUNK", 7)
    probe.fit(synthetic.rows)
    chunked = attention_by_class(probe, synthetic.rows, TEST, 3)["attention"]
    np.testing.assert_allclose(chunked, found, rtol=1e-3, atol=1e-5)


def test_no_attention_where_there_are_more_classes_than_outputs():
    many = clusters(60, classes=11, dim=12)
    z = torch.stack([many.z[many.y == label][0] for label in range(11)])
    probe = TabICLProbe(Deployment(fit_preprocessing("rotated4", many.z, 1), "mini", MINI))
    rows = LabelledEmbeddings(z, torch.arange(11))
    probe.fit(rows)
    assert attention_by_class(probe, rows, many, 11) == {}


def test_rows_and_what_is_kept_of_them(mapped):
    subject, results = mapped
    assert [row.context for row in results.rows.values()] == ["random", "class_mean", "synthetic"]
    plane = fit_plane(TRAIN.z)
    np.testing.assert_allclose(results.arrays["boundary/test"], plane.project(TEST.z), atol=1e-5)
    assert results.arrays["boundary/class_names"].tobytes().decode().split("\0") == NAMES
    for row in results.rows.values():
        attended = f"boundary/attention/{row.key}" in results.arrays
        assert attended == (row.context in {"random", "synthetic"})
        assert results.correct([row]).mean() == pytest.approx(row.accuracy)
    (row,) = results.select(context="synthetic")
    synthetic = subject.context_sets["last"]
    probe = TabICLProbe(Deployment(synthetic.preprocessing, "mini", MINI))
    probe.fit(synthetic.rows)
    on_plane = probe.predict_proba(plane.lift(plane.project(TEST.z))).argmax(1)
    assert row.measures["same_at_projection"] == (on_plane == results.predictions[row.key]).mean()


def test_what_is_mapped_is_not_mapped_again_unless_the_axes_change(mapped, monkeypatch):
    subject, results = mapped
    loaded = Results.load(subject.output)
    assert loaded.arrays.keys() == results.arrays.keys()
    calls = []
    monkeypatch.setattr(TabICLProbe, "fit", lambda probe, context, images: calls.append(len(context.y)))
    boundary(subject, loaded, **SMALL)
    assert calls == []
    monkeypatch.undo()
    boundary(subject, loaded, contexts=("random",), resolution=4)
    maps = [name for name in loaded.arrays if name.startswith("boundary/class/")]
    assert len(maps) == 2  # that of class_mean lay on other axes
    assert {loaded.arrays[name].shape for name in maps} == {(4, 4)}


def test_poisoned_test_embeddings_move_the_map_and_nothing_under_it(toy, mapped):
    _, clean = mapped
    subject, poisoned = toy("poisoned", LabelledEmbeddings(TEST.z * 1e3 - 7, TEST.y.flip(0))), Results()
    boundary(subject, poisoned, **SMALL)
    assert np.array_equal(clean.arrays["boundary/variance"], poisoned.arrays["boundary/variance"])
    assert not np.array_equal(clean.arrays["boundary/x"], poisoned.arrays["boundary/x"])
    for key in clean.rows:
        for name in ("rows", "labels"):
            assert np.array_equal(clean.arrays[f"boundary/{name}/{key}"], poisoned.arrays[f"boundary/{name}/{key}"])
    subject._embedded["test"] = LabelledEmbeddings(
        TEST.z, TEST.y.flip(0)
    )  # wrong labels alone leave the maps as they are
    boundary(subject, poisoned, **SMALL)
    for key in clean.rows:
        for name in ("class", "confidence"):
            assert np.array_equal(clean.arrays[f"boundary/{name}/{key}"], poisoned.arrays[f"boundary/{name}/{key}"])


def test_message_for_a_map_without_extent(toy):
    with pytest.raises(UserError, match=r"--resolution=1: must lie between 2 and 2000"):
        boundary(toy(), Results(), resolution=1)
