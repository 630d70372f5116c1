"""Gradient descent against autograd, what is compared against definitions, and the choice on val."""

from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.cli.evaluate import parser, with_brackets
from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.icl_vs_gd import ICL_VS_GD
from synthicl.studies.icl_vs_gd.compute import (
    CURVES,
    FollowedDescent,
    GradientDescent,
    TabICLTwice,
    agreement,
    curves,
    icl_vs_gd,
    recorded_steps,
    squared_difference,
)
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing


def clusters(n, classes=3, dim=6, seed=0):
    """Embeddings (n, dim) around a corner for each class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return LabelledEmbeddings(torch.eye(classes, dim)[y] * 3 + torch.randn(n, dim, generator=generator), y)


TRAIN, VAL, TEST = (clusters(n, seed=seed) for seed, n in enumerate((60, 20, 25)))
SMALL = {"contexts": ("random",), "random_draws": 2, "learning_rates": (0.1, 1.0), "steps": 50}


@pytest.fixture
def toy(tmp_path):
    """A function that makes a subject of three toy splits, with a synthetic context set."""

    def make(name="toy", test=TEST):
        settings = of_subject("digits", {"tabicl.n_estimators": 2})[1]
        subject = Subject(tmp_path / name, settings, _embedded={"train": TRAIN, "val": VAL, "test": test})
        about = {"dataset": "digits", "backbone": "mini", "backbone_weights": FrozenBackbone("mini").fingerprint}
        about |= {"objective": "Toy", "tabicl_checkpoint": "mini"}
        z, y = clusters(6, seed=9).z, torch.tensor([0, 0, 1, 1, 2, 2])
        synthetic = ContextSet(z, y, list("0123456789"), fit_preprocessing("rotated4", TRAIN.z, 2), metadata=about)
        subject.context_sets = {"last": synthetic, "best_on_val": synthetic}
        return subject

    return make


def fitted(preprocessing="rotated4", context=None, **state):
    descent = GradientDescent(fit_preprocessing(preprocessing, TRAIN.z, 2), threshold=4.0)
    descent.fit(context or clusters(9, seed=4))
    for name, value in state.items():
        setattr(descent, name, value)
    return descent


def test_no_step_is_no_opinion():
    np.testing.assert_allclose(fitted(steps=0).predict_proba(TEST.z), 1 / 3)


def test_every_step_equals_autograd():
    descent = fitted()
    context, queries = descent.columns(TEST.z)
    assert context.dtype == queries.dtype == torch.float64
    head = torch.nn.Linear(4, 3, dtype=torch.float64)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.7)
    for k, (weight, bias) in enumerate(islice(descent.heads(context, 0.7), 20)):
        torch.testing.assert_close(weight, head.weight.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(bias, head.bias.detach(), rtol=1e-12, atol=1e-14)
        descent.learning_rate, descent.steps = 0.7, k
        expected = head(queries).softmax(-1).detach().numpy()
        np.testing.assert_allclose(descent.predict_proba(TEST.z), expected, rtol=1e-10)
        optimiser.zero_grad()
        F.cross_entropy(head(context), descent.labels).backward()
        optimiser.step()


@pytest.mark.parametrize("preprocessing", ["raw", "rotated4", "pca3"])
def test_columns_are_what_members_without_power_transform_see(preprocessing):
    descent = fitted(preprocessing)
    classifier = TabICLProbe(Deployment(descent.preprocessing, "mini", MINI)).classifier()
    assert classifier.outlier_threshold == descent.threshold
    classifier.fit(descent.preprocessing(descent.z).numpy(), descent.labels.numpy())
    preprocessor = classifier.ensemble_generator_.preprocessors_["none"]
    for ours, z in zip(descent.columns(TEST.z), (descent.z, TEST.z), strict=True):
        np.testing.assert_allclose(ours, preprocessor.transform(descent.preprocessing(z).numpy()), rtol=1e-4, atol=1e-5)


def test_columns_that_are_constant_in_the_context_are_left_out():
    context = clusters(12)
    z, y = context.z, context.y
    z[:, [1, 4]] = 0.5
    descent = fitted("raw", context=context)
    ensemble = (
        TabICLProbe(Deployment(descent.preprocessing, "mini", MINI))
        .classifier()
        .fit(z.numpy(), y.numpy())
        .ensemble_generator_
    )
    for ours, rows in zip(descent.columns(TEST.z), (z, TEST.z), strict=True):
        expected = ensemble.preprocessors_["none"].transform(ensemble.unique_filter_.transform(rows.numpy()))
        assert ours.shape[1] == 4
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_classes_that_a_context_lacks():
    context = clusters(8, classes=2)
    gaps = context._replace(y=torch.tensor([2, 5])[context.y])
    probabilities = fitted(context=gaps, steps=30).predict_proba(TEST.z)
    np.testing.assert_allclose(probabilities, fitted(context=context, steps=30).predict_proba(TEST.z))


def test_small_steps_fall_onto_one_curve():
    fine, coarse = (fitted(learning_rate=rate, steps=round(2 / rate)) for rate in (0.005, 0.01))
    np.testing.assert_allclose(fine.predict_proba(TEST.z), coarse.predict_proba(TEST.z), atol=2e-3)


def test_measures_by_hand():
    first, second = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([[0.6, 0.4], [1.0, 0.0]])
    assert agreement(first, second) == 0.5
    assert squared_difference(first, second) == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)


def test_recorded_steps_ascend_from_none_to_all():
    for most in (1, 7, 1000):
        steps = recorded_steps(most)
        assert steps == sorted(set(steps))
        assert (steps[0], steps[1], steps[-1]) == (0, 1, most)


def test_curves_by_single_predictions():
    descent, tabicl = fitted(), np.random.default_rng(0).dirichlet(np.ones(3), len(TEST.y))
    found = curves(descent, TEST.z, tabicl, (0.1, 0.5), [0, 1, 4])
    assert found.shape == (3, 2, 3)
    for i, descent.learning_rate in enumerate((0.1, 0.5)):
        for j, descent.steps in enumerate((0, 1, 4)):
            p = descent.predict_proba(TEST.z)
            time = descent.learning_rate * descent.steps
            expected = [time, agreement(p, tabicl), squared_difference(p, tabicl)]
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-12)


def test_rows_of_both_on_every_split_chosen_on_val(toy):
    subject, results = toy(), Results()
    icl_vs_gd(subject, results, **SMALL)
    assert len(results.rows) == (2 + 1) * 5 * 2  # contexts (the synthetic one once), probes, splits
    for row in results.select(probe="gradient_descent"):
        found = results.arrays[CURVES + row.key]
        of_val = results.arrays[CURVES + row.key.replace("split=test", "split=val")]
        rate, k = np.unravel_index(of_val[2].argmin(), of_val[2].shape)
        time = row.measures["learning_rate"] * row.measures["steps"]
        assert time == pytest.approx(found[0, rate, k])
        assert row.measures["agreement"] == pytest.approx(found[1, rate, k])
        assert row.measures["squared_difference"] == pytest.approx(found[2, rate, k])
        tabicl = row.key.replace("probe=gradient_descent", "probe=tabicl")
        same = results.predictions[row.key] == results.predictions[tabicl]
        assert same.mean() == pytest.approx(row.measures["agreement"])
        assert results.correct([row]).mean() == pytest.approx(row.accuracy)
        assert row.run["learning_rates"] == [0.1, 1.0]
        assert 0.5 < results.rows[tabicl].measures["self_agreement"] <= 1


def test_rules_stand_beside_on_contexts_of_their_own_size(toy):
    subject, results = toy(), Results()
    icl_vs_gd(subject, results, **SMALL | {"contexts": ("hard_pairs",), "ipc": 3})
    rows = {(row.context, row.probe): row for row in results.select(split="test")}
    assert {probe for _, probe in rows} == {"tabicl", "gradient_descent", "first_step", "linear", "nearest_row"}
    assert rows["hard_pairs", "linear"].n_context == 9
    descent = GradientDescent(subject.preprocessing, 4.0)
    descent.fit(subject.context_sets["last"].rows)
    context, queries = descent.columns(TEST.z)
    expected = LogisticRegression(max_iter=5000).fit(context, descent.labels).predict(queries)
    assert list(results.predictions[rows["synthetic", "linear"].key]) == list(expected)
    expected = descent.labels[torch.cdist(queries, context).argmin(1)]
    assert list(results.predictions[rows["synthetic", "nearest_row"].key]) == expected.tolist()


def test_the_first_step_classifies_alike_at_every_rate(toy):
    context = LabelledEmbeddings(clusters(6, seed=9).z, torch.tensor([0, 0, 1, 1, 2, 2]))
    preprocessing = fit_preprocessing("rotated4", TRAIN.z, 2)
    first, second = (GradientDescent(preprocessing, 4.0, learning_rate=rate, steps=1) for rate in (0.01, 10.0))
    first.fit(context)
    second.fit(context)
    assert agreement(first.predict_proba(TEST.z), second.predict_proba(TEST.z)) == 1


@pytest.mark.parametrize(("given", "edge"), [({"steps": 2}, 1), ({"learning_rates": (1e-3, 1e-2)}, 1)])
def test_a_choice_on_the_edge_of_the_grid_is_said(toy, given, edge):
    results = Results()
    icl_vs_gd(toy(), results, **SMALL | given)
    assert {row.measures["on_edge"] for row in results.select(probe="gradient_descent")} == {edge}


def test_what_is_measured_is_not_measured_again(toy, monkeypatch):
    subject, results = toy(), Results()
    icl_vs_gd(subject, results, **SMALL)
    loaded = Results.load(subject.output)
    asked = []

    def spy(self, context, images, fit=FollowedDescent.fit):
        asked.append(len(context.y))
        fit(self, context, images)

    monkeypatch.setattr(FollowedDescent, "fit", spy)
    icl_vs_gd(subject, loaded, **SMALL)
    assert asked == []
    icl_vs_gd(subject, loaded, **SMALL | {"steps": 51})
    assert asked == [3, 3, 6]  # rows of two random contexts and of the synthetic one


def test_tabicl_is_asked_once_and_followed_only_where_it_was_fitted(toy):
    subject = toy()
    tabicl = TabICLTwice(subject.deployment, "cpu")
    tabicl.fit(context := clusters(9, seed=4))
    first = tabicl.predict_proba(TEST.z)
    tabicl.fit(context)
    assert tabicl.predict_proba(TEST.z) is first
    tabicl.fit(clusters(9, seed=5))
    assert not np.array_equal(tabicl.predict_proba(TEST.z), first)


def test_poisoned_test_embeddings_change_nothing_but_test_rows(toy):
    seen = []
    for name, test in (("clean", TEST), ("poisoned", LabelledEmbeddings(TEST.z * 1e6 - 7, TEST.y.flip(0)))):
        results = Results()
        icl_vs_gd(toy(name, test), results, **SMALL)
        seen.append(results)
    clean, poisoned = seen
    for row in clean.select(split="val"):
        assert np.array_equal(clean.predictions[row.key], poisoned.predictions[row.key])
        assert row.measures == poisoned.rows[row.key].measures
    for row in clean.select(split="test", probe="gradient_descent"):
        for name in ("learning_rate", "steps"):
            assert row.measures[name] == poisoned.rows[row.key].measures[name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, r"--steps=0: must lie between 1 and"),
        ({"learning_rates": ()}, r"--learning_rates: give at least one, and only positive ones, for example 0\.01"),
        ({"learning_rates": (0.1, -1.0)}, r"--learning_rates: give at least one, and only positive ones"),
    ],
)
def test_message_for_settings_out_of_range(toy, given, message):
    with pytest.raises(UserError, match=message):
        icl_vs_gd(toy(), Results(), **given)


def test_settings_are_flags():
    assert ICL_VS_GD.compute is icl_vs_gd
    args = ["icl-vs-gd", "digits", "--learning_rates=0.1,1", "--steps=7", "--contexts=random,centroid"]
    given = parser([ICL_VS_GD]).parse_args(with_brackets(args, [ICL_VS_GD]))["icl-vs-gd"]
    assert (given.learning_rates, given.steps, given.contexts) == ([0.1, 1.0], 7, ["random", "centroid"])
