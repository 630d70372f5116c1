"""Scoring contexts, and the builders of real contexts against brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synthicl.artefact.context_set import ContextSet
from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.coresets import CORESETS
from synthicl.coresets.all import everything
from synthicl.coresets.centroid import centroid
from synthicl.coresets.class_mean import class_mean
from synthicl.coresets.random import random
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import PROBES
from synthicl.probes.linear import LinearProbe
from synthicl.probes.preprocessing_choice import CANDIDATES, choose_preprocessing, first_of_the_best
from synthicl.probes.probe import Probe
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.compare.compute import compare, jobs_of, make_probes
from synthicl.studies.contexts import real_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Context, Job, Scorer
from synthicl.studies.subject import Subject
from synthicl.tabicl.checkpoint import BUNDLED, MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import columns_of, fit_preprocessing


def clusters(n, classes=3, dim=4, seed=0):
    """Embeddings (n, dim) around a corner for each class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return LabelledEmbeddings(torch.eye(classes, dim)[y] * 4 + torch.randn(n, dim, generator=generator), y)


class Table(Probe):
    """Says what it was told, whatever it is shown."""

    name = "table"

    def __init__(self, probabilities):
        self.probabilities = np.array(probabilities)

    def fit(self, context, images=None):
        pass

    def predict_proba(self, z):
        return self.probabilities


TRAIN = clusters(30)
Z, Y = TRAIN.z, TRAIN.y


@pytest.mark.parametrize("ipc", [1, 3, 100])
def test_centroid_by_brute_force(ipc):
    chosen = centroid(TRAIN, ipc, seed=0)
    expected = []
    for label in range(3):
        rows = [i for i in range(30) if Y[i] == label]
        mean = sum(Z[i] for i in rows) / len(rows)
        expected += sorted(rows, key=lambda i, mean=mean: float(((Z[i] - mean) ** 2).sum()))[:ipc]
    assert chosen.indices.tolist() == expected
    assert torch.equal(chosen.rows.z, Z[expected])
    assert torch.equal(chosen.rows.y, Y[expected])


def test_class_mean_by_brute_force():
    chosen = class_mean(TRAIN, ipc=5, seed=0)
    assert chosen.rows.y.tolist() == [0, 1, 2]
    assert chosen.indices is None
    for label in range(3):
        rows = [Z[i] for i in range(30) if Y[i] == label]
        torch.testing.assert_close(chosen.rows.z[label], sum(rows) / len(rows))


@pytest.mark.parametrize("ipc", [1, 4, 100])
def test_random_is_without_replacement_and_balanced(ipc):
    chosen = random(TRAIN, ipc, seed=3)
    assert len(set(chosen.indices.tolist())) == len(chosen.indices)
    assert torch.equal(chosen.rows.z, Z[chosen.indices])
    assert torch.equal(chosen.rows.y, Y[chosen.indices])
    assert torch.equal(chosen.rows.y.bincount(), Y.bincount().clamp(max=ipc))


def test_random_depends_on_its_seed_alone_and_reaches_every_row():
    drawn = [random(TRAIN, 2, seed).indices for seed in range(60)]
    torch.manual_seed(99)
    assert torch.equal(random(TRAIN, 2, 7).indices, drawn[7])
    assert set(torch.cat(drawn).tolist()) == set(range(30))


def test_all_is_everything():
    chosen = everything(TRAIN, 1, 0)
    assert torch.equal(chosen.rows.z, Z)
    assert torch.equal(chosen.rows.y, Y)


@pytest.mark.parametrize("build", [random, centroid, class_mean, everything])
def test_builders_cope_with_gaps_and_single_images(build):
    z, y = torch.randn(4, 2), torch.tensor([5, 2, 5, 5])
    chosen = build(LabelledEmbeddings(z, y), 2, 0)
    assert chosen.rows.y.unique().tolist() == [2, 5]
    assert len(chosen.rows.z) == len(chosen.rows.y)


@pytest.fixture
def digits(tmp_path):
    """The digits alone, with a preprocessing named so that nothing is to be chosen."""
    return Subject(tmp_path, of_subject("digits", {"tabicl.preprocessing": "rotated4", "tabicl.n_estimators": 1})[1])


def contexts_of(train, ipc, draws):
    """Every builder's context, random ones drawn often."""
    return [
        Context(name, draw, "", CORESETS.get(name)(train, ipc, draw).rows)
        for name in CORESETS.names()
        for draw in range(draws if name == "random" else 1)
    ]


def scorer(results, folder=None, **values):
    settings = {"command": "compare", "seed": 5, "ipc": 2, "run": {"dataset": "x"}, "backbone": "mini"}
    return Scorer(results, folder, **settings | values)


def test_real_contexts_are_those_of_the_builders(digits):
    train = digits.embedded("train")
    contexts = real_contexts(digits, 2, 4, ["random", "centroid", "class_mean", "all"])
    assert [(c.name, c.draw) for c in contexts] == [
        *(("random", draw) for draw in range(4)),
        ("centroid", 0),
        ("class_mean", 0),
        ("all", 0),
    ]
    for context in contexts[:4]:
        chosen = random(train, 2, context.draw)
        assert torch.equal(context.rows.z, chosen.rows.z)
        images = context.images()
        assert images.shape == (20, 3, 32, 32)
        assert torch.allclose(digits.backbone(images / 255), chosen.rows.z, atol=1e-5)
    assert contexts[5].images is None
    assert {context.name for context in real_contexts(digits, 1, 1)} == set(CORESETS.names())


def test_messages_for_unknown_contexts_and_probes(digits):
    with pytest.raises(UserError, match=r"--contexts=neighbours: unknown here\. Choose among: all, centroid"):
        real_contexts(digits, 1, 1, ["neighbours"])  # there are no synthetic images to have any
    with pytest.raises(UserError, match=r"--probes=nope: unknown\. Choose one of: comb, knn, linear"):
        list(make_probes(digits, ["nope"]))


def test_probes_are_all_but_the_one_that_trains_for_long(digits):
    names = [probe.name for probe in make_probes(digits, None)]
    assert names[0] == "tabicl"
    assert set(names) == set(PROBES.names())
    preprocessings = [
        probe.preprocessing.name for probe in make_probes(digits, ["linear", "tabicl"], ["raw", "pca2"])[:3]
    ]
    assert preprocessings == ["rotated4", "raw", "pca2"]
    own, other = make_probes(digits, ["tabicl"], checkpoints=["mini_1"])
    assert (own.name, other.name) == ("tabicl", "tabicl mini_1")
    assert (own.deployment.model_path, other.deployment.model_path) == (BUNDLED["mini"], BUNDLED["mini_1"])


def test_what_does_not_depend_on_ipc_is_filed_under_the_context_sets_own(digits):
    results = Results()
    for ipc in (None, 3):
        compare(digits, results, contexts=["centroid", "class_mean"], probes=["linear"], ipc=ipc)
    found = {(row.context, row.ipc, row.n_context) for row in results.rows.values()}
    assert found == {("centroid", 1, 10), ("centroid", 3, 30), ("class_mean", 1, 10)}


def test_a_probe_that_looks_at_images_is_fitted_with_several_seeds(digits):
    contexts = real_contexts(digits, 1, 2, ["random", "centroid", "class_mean"])
    (probe,) = make_probes(digits, ["linear_reference"])
    jobs = [job for context in contexts for job in jobs_of(digits, probe, context, 3)]
    assert [(job.context.name, job.context.draw) for job in jobs] == [
        ("random", 0),
        ("random", 1),
        *(("centroid", seed) for seed in range(3)),
    ]
    assert [job.probe.seed for job in jobs] == [0, 1, 0, 1, 2]


def test_the_posts_preprocessing_keeps_its_members(digits):
    assert digits.fit_preprocessing("raw").n_estimators == 1
    assert digits.fit_preprocessing("post").n_estimators == 32


def test_too_few_training_images_for_any_preprocessing(digits):
    digits._embedded["train"] = digits.embedded("train").at(torch.arange(8))
    digits.settings = replace(digits.settings, tabicl=replace(digits.settings.tabicl, preprocessing="auto"))
    with pytest.raises(UserError, match=r"--tabicl\.preprocessing=auto: 8 training images are too few for any of"):
        digits.preprocessing  # noqa: B018


def test_other_tabicl_weights_than_the_runs_are_refused(digits):
    about = {"tabicl_weights": "0" * 16}
    digits.context_sets = {"last": ContextSet(Z, Y, ["a", "b", "c"], fit_preprocessing("raw", Z), metadata=about)}
    with pytest.raises(UserError, match=r"--tabicl\.model_path=.*mini\.ckpt: these weights \(.* --checkpoints\."):
        digits.checkpoint  # noqa: B018


def test_compare_a_dataset_alone(digits):
    results = Results()
    compare(digits, results, contexts=["random", "class_mean"], probes=["tabicl", "linear"], random_draws=2, ipc=3)
    assert len(results.rows) == 3 * 2 * 2
    assert {(row.ipc, row.seed, row.checkpoint) for row in results.rows.values()} == {(3, 0, ""), (1, 0, "")}
    assert {row.n_context for row in results.select(context="random")} == {30}
    assert Results.load(digits.output).rows == results.rows


def test_score_by_hand():
    """Two context classes, 2 and 5; the queries are of 2, 5 and of 7, which the context lacks."""
    probe = Table([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]])
    predictions, measured = score(
        probe, LabelledEmbeddings(torch.zeros(3, 1), torch.tensor([2, 5, 7])), np.array([2, 5])
    )
    assert predictions.tolist() == [2, 2, 2]
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["cross_entropy"] == pytest.approx(-(np.log(0.9) + np.log(0.2) + np.log(1e-12)) / 3)
    assert measured["predict_seconds"] >= 0


def test_a_row_for_each_context_probe_and_split():
    queries = {"val": clusters(11, seed=1), "test": clusters(13, seed=2)}
    contexts = [*contexts_of(TRAIN, 2, draws=2), Context("synthetic", 0, "last", clusters(6, seed=3))]
    probes = [LinearProbe(), TabICLProbe(Deployment(fit_preprocessing("pca2", Z, 2), "mini", MINI))]
    results = Results()
    scorer(results).score([Job(context, probe) for probe in probes for context in contexts], queries)
    assert len(results.rows) == len(contexts) * 2 * 2
    for row in results.rows.values():
        (context,) = [c for c in contexts if (c.name, c.draw) == (row.context, row.draw)]
        assert (row.n_context, row.checkpoint) == (len(context.rows.y), context.checkpoint)
        assert row.n_query == {"val": 11, "test": 13}[row.split]
        tabicl = row.probe == "tabicl"
        assert (row.seed, row.ipc, row.backbone) == (5, 2, "mini")
        assert row.run == {"dataset": "x"} | ({"n_estimators": 2} if tabicl else {})
        assert (row.preprocessing, row.statistics) == (("pca2", "train") if tabicl else ("", "context"))
        assert results.correct([row]).mean() == pytest.approx(row.accuracy)
    expected = {"random": 6, "centroid": 6, "class_mean": 3, "all": 30, "synthetic": 6}
    assert {row.context: row.n_context for row in results.rows.values() if row.context in expected} == expected


def test_an_interrupted_evaluation_resumes_where_it_was(tmp_path):
    """The third fit fails; afterwards only what is missing is measured, and what has changed."""
    queries = {"test": clusters(13, seed=2)}
    contexts = [Context("random", draw, "", random(TRAIN, 2, draw).rows) for draw in range(4)]

    class Counting(LinearProbe):
        fits = 0

        def fit(self, context, images=None):
            Counting.fits += 1
            if Counting.fits == 3:
                raise KeyboardInterrupt
            super().fit(context)

    def run(contexts, **values):
        scorer(Results.load(tmp_path), tmp_path, **values).score([Job(c, Counting()) for c in contexts], queries)

    with pytest.raises(KeyboardInterrupt):
        run(contexts)
    assert len(Results.load(tmp_path).rows) == 2
    run(contexts)
    assert Counting.fits == 3 + 2
    run(contexts)
    assert Counting.fits == 5
    run(
        [*contexts[:3], contexts[3]._replace(rows=contexts[3].rows._replace(z=contexts[3].rows.z + 1))]
    )  # the context changed under its name
    assert Counting.fits == 6
    run(contexts[:1], run={"dataset": "y"})
    assert Counting.fits == 7


def test_soft_labels_reach_the_probes_that_can_use_them():
    queries = {"test": clusters(30, seed=2)}
    rows = clusters(6, seed=3)
    wrong = torch.nn.functional.one_hot((rows.y + 1) % 3, 3).float()
    accuracies = []
    for soft_labels in (None, wrong):
        results = Results()
        context = Context("synthetic", 0, "last", rows._replace(soft_labels=soft_labels))
        probes = LinearProbe(), TabICLProbe(Deployment(fit_preprocessing("raw", Z, 1), "mini", MINI))
        scorer(results).score([Job(context, probe) for probe in probes], queries)
        accuracies.append([row.accuracy for row in results.rows.values()])
    assert accuracies[0][0] > 0.8 > 0.3 > accuracies[1][0]
    assert accuracies[0][1] == accuracies[1][1]


def test_poisoned_test_embeddings_change_nothing_but_test_rows(tmp_path):
    """All of ``compare`` on digits: every builder and probe, synthetic images, the preprocessing that val chooses."""
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []
    for poison in (False, True):
        settings = of_subject("digits", {"tabicl.n_estimators": 1})[1]
        narrow = replace(settings, tabicl=replace(settings.tabicl, candidates=("rotated4", "pca2")))
        chosen = Subject(tmp_path / "alone", narrow)
        subject = Subject(tmp_path / str(poison), settings)
        clean = chosen.embedded("test")
        if poison:
            for one in (chosen, subject):
                one._embedded["test"] = LabelledEmbeddings(clean.z * 1e6 - 7, clean.y.flip(0))
        about = {"dataset": "digits", "backbone": "mini", "tabicl_checkpoint": "mini", "objective": "none"}
        about |= {"backbone_weights": chosen.backbone.fingerprint, "ipc": 1, "seed": 0, "crop_size": 32}
        rows = chosen.backbone(images / 255), torch.arange(10)
        subject.context_sets = {"last": ContextSet(*rows, [*"0123456789"], chosen.preprocessing, images, about)}
        results = Results()
        compare(subject, results, preprocessings=["pca3"], random_draws=2)
        seen.append((chosen.preprocessing, real_contexts(subject, 1, 2), results))
    (preprocessing, contexts, results), (other_preprocessing, other_contexts, other_results) = seen
    assert {context.name for context in contexts} == {*CORESETS.names(), "neighbours"}
    assert (preprocessing.name, preprocessing.n_estimators) == (
        other_preprocessing.name,
        other_preprocessing.n_estimators,
    )
    z = torch.randn(5, 128)
    assert torch.equal(preprocessing(z), other_preprocessing(z))
    for context, other in zip(contexts, other_contexts, strict=True):
        assert torch.equal(context.rows.z, other.rows.z)
        assert torch.equal(context.rows.y, other.rows.y)
    val = results.select(split="val")
    assert len(val) > 50
    for row in val:
        assert np.array_equal(results.predictions[row.key], other_results.predictions[row.key])
        assert row.cross_entropy == other_results.rows[row.key].cross_entropy
    assert all(row.accuracy != other_results.rows[row.key].accuracy for row in results.select(split="test"))


def test_preprocessing_is_chosen_by_accuracy_on_val():
    """The first column alone tells the classes apart; the second is wide and says nothing."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    z = torch.stack([y + 0.1 * torch.randn(60, generator=generator), 50 * torch.randn(60, generator=generator)], 1)
    train, val = LabelledEmbeddings(z[:30], y[:30]), LabelledEmbeddings(z[30:], y[30:])
    chosen, accuracy = choose_preprocessing(["pca1", "pca2"], train, val, 2, MINI, n_estimators=1)
    assert chosen.name == "pca2"
    assert accuracy["pca2"] > accuracy["pca1"]
    chosen, accuracy = choose_preprocessing(["raw", "post"], train, val, 2, MINI, n_estimators=1)
    assert accuracy["raw"] == accuracy["post"]
    assert chosen.name == "raw"  # the first wins a tie


@pytest.mark.parametrize(
    ("before", "chosen"),
    [
        ({"pca8": [[0.85, 0.87, 0.86]]}, "pca8"),  # within 0.9 -+ 0.04, and preferred
        ({"pca8": [[0.75, 0.77, 0.76]]}, "pca16"),  # worse
        ({"pca8": [[0.75, 0.77, 0.76]], "raw": [[0.89, 0.89, 0.89]]}, "raw"),  # within the error
        ({"raw": [[0.95, 0.95, 0.95]]}, "raw"),  # better
    ],
)
def test_one_standard_error_rule(before, chosen):
    assert first_of_the_best({**before, "pca16": [[0.82, 0.92, 0.96]]}) == chosen


def test_few_columns_are_preferred_but_with_efficientnet():
    assert [columns_of(name) for name in CANDIDATES] == sorted(columns_of(name) for name in CANDIDATES)
    for name in ("groceries", "groceries-hard", "groceries-42"):
        assert of_subject(name, {})[1].tabicl.candidates[0] == "rotated32"


def test_what_is_preferred_less_has_to_be_better_by_more_than_its_error():
    preferred = {"pca16": [[0.82, 0.92, 0.96]]}
    assert first_of_the_best({**preferred, "raw": [[0.80, 0.93, 1.00]]}) == "pca16"
    assert first_of_the_best({**preferred, "raw": [[0.95, 0.95, 0.95]]}) == "raw"
