"""Scoring contexts, and the builders of real contexts against brute force."""

import numpy as np
import pytest
import torch

from synthicl.evaluation.compare import Context, compare, real_contexts, score
from synthicl.evaluation.protocol_choice import choose_protocol, fewest_columns_of_the_best
from synthicl.evaluation.results import Results
from synthicl.in_context.checkpoint import MINI
from synthicl.in_context.protocol import fit_protocol
from synthicl.probes.linear import LinearProbe
from synthicl.probes.probe import Probe
from synthicl.probes.tabicl import TabICLProbe
from synthicl.selection.all import everything
from synthicl.selection.centroid import centroid
from synthicl.selection.class_mean import class_mean
from synthicl.selection.random import random


def clusters(n, classes=3, dim=4, seed=0):
    """Embeddings (n, dim) around a corner for each class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return torch.eye(classes, dim)[y] * 4 + torch.randn(n, dim, generator=generator), y


class Table(Probe):
    """Says what it was told, whatever it is shown."""

    name = "table"

    def __init__(self, probabilities):
        self.probabilities = np.array(probabilities)

    def fit(self, z, y):
        pass

    def predict_proba(self, z):
        return self.probabilities


Z, Y = clusters(30)


@pytest.mark.parametrize("ipc", [1, 3, 100])
def test_centroid_by_brute_force(ipc):
    chosen = centroid(Z, Y, ipc, seed=0)
    expected = []
    for label in range(3):
        rows = [i for i in range(30) if Y[i] == label]
        mean = sum(Z[i] for i in rows) / len(rows)
        expected += sorted(rows, key=lambda i, mean=mean: float(((Z[i] - mean) ** 2).sum()))[:ipc]
    assert chosen.indices.tolist() == expected
    assert torch.equal(chosen.z, Z[expected])
    assert torch.equal(chosen.y, Y[expected])


def test_class_mean_by_brute_force():
    chosen = class_mean(Z, Y, ipc=5, seed=0)
    assert chosen.y.tolist() == [0, 1, 2]
    assert chosen.indices is None
    for label in range(3):
        rows = [Z[i] for i in range(30) if Y[i] == label]
        torch.testing.assert_close(chosen.z[label], sum(rows) / len(rows))


@pytest.mark.parametrize("ipc", [1, 4, 100])
def test_random_is_without_replacement_and_balanced(ipc):
    chosen = random(Z, Y, ipc, seed=3)
    assert len(set(chosen.indices.tolist())) == len(chosen.indices)
    assert torch.equal(chosen.z, Z[chosen.indices])
    assert torch.equal(chosen.y, Y[chosen.indices])
    assert torch.equal(chosen.y.bincount(), Y.bincount().clamp(max=ipc))


def test_random_depends_on_its_seed_alone_and_reaches_every_row():
    drawn = [random(Z, Y, 2, seed).indices for seed in range(60)]
    torch.manual_seed(99)
    assert torch.equal(random(Z, Y, 2, 7).indices, drawn[7])
    assert set(torch.cat(drawn).tolist()) == set(range(30))


def test_all_is_everything():
    chosen = everything(Z, Y, 1, 0)
    assert torch.equal(chosen.z, Z)
    assert torch.equal(chosen.y, Y)


@pytest.mark.parametrize("build", [random, centroid, class_mean, everything])
def test_builders_cope_with_gaps_and_single_images(build):
    z, y = torch.randn(4, 2), torch.tensor([5, 2, 5, 5])
    chosen = build(z, y, 2, 0)
    assert chosen.y.unique().tolist() == [2, 5]
    assert len(chosen.z) == len(chosen.y)


def test_real_contexts_are_those_of_the_builders():
    contexts = real_contexts(Z, Y, 2, draws=4)
    assert sorted((c.name, c.draw) for c in contexts if c.name in {"random", "centroid", "class_mean", "all"}) == [
        ("all", 0),
        ("centroid", 0),
        ("class_mean", 0),
        *(("random", draw) for draw in range(4)),
    ]
    for context in contexts:
        if context.name == "random":
            assert torch.equal(context.z, random(Z, Y, 2, context.draw).z)


def test_score_by_hand():
    """Two context classes, 2 and 5; the queries are of 2, 5 and of 7, which the context lacks."""
    probe = Table([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]])
    predictions, measured = score(probe, torch.zeros(3, 1), torch.tensor([2, 5, 7]), np.array([2, 5]))
    assert predictions.tolist() == [2, 2, 2]
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["cross_entropy"] == pytest.approx(-(np.log(0.9) + np.log(0.2) + np.log(1e-12)) / 3)
    assert measured["predict_seconds"] >= 0


def test_compare_gives_a_row_for_each_context_probe_and_split():
    queries = {"val": clusters(11, seed=1), "test": clusters(13, seed=2)}
    contexts = [*real_contexts(Z, Y, 2, draws=2), Context("synthetic", 0, "last", *clusters(6, seed=3))]
    probes = [LinearProbe(), TabICLProbe(fit_protocol("pca2", Z, 2), MINI)]
    results = Results()
    for _ in range(2):  # the second time the rows are replaced
        compare(contexts, probes, queries, seed=5, ipc=2, run={"dataset": "x"}, results=results)
    assert len(results.rows) == len(contexts) * 2 * 2
    for row in results.rows.values():
        (context,) = [c for c in contexts if (c.name, c.draw) == (row.context, row.draw)]
        assert (row.n_context, row.checkpoint) == (len(context.y), context.checkpoint)
        assert row.n_query == {"val": 11, "test": 13}[row.split]
        assert (row.seed, row.ipc, row.run) == (5, 2, {"dataset": "x"})
        tabicl = row.probe == "tabicl"
        assert (row.protocol, row.statistics) == (("pca2", "train") if tabicl else ("", "context"))
        assert results.correct([row]).mean() == pytest.approx(row.accuracy)
    expected = {"random": 6, "centroid": 6, "class_mean": 3, "all": 30, "synthetic": 6}
    assert {row.context: row.n_context for row in results.rows.values() if row.context in expected} == expected


def test_poisoned_test_embeddings_change_nothing_but_test_rows():
    """Contexts, the protocol that val chooses, and every val row are the same whatever test holds."""
    val, clean = clusters(20, seed=1), clusters(20, seed=2)
    poisoned = (clean[0] * 1e6 - 7, clean[1].flip(0))
    seen = []
    for test in (clean, poisoned):
        splits = {"train": (Z, Y), "val": val, "test": test}
        protocol, _ = choose_protocol(["rotated3", "pca2", "raw"], splits["train"], val, 1, MINI, n_estimators=1)
        contexts = real_contexts(*splits["train"], 1, draws=2)
        results = Results()
        queries = {split: splits[split] for split in ("test", "val")}
        compare(contexts, [TabICLProbe(protocol, MINI), LinearProbe()], queries, 0, 1, {}, results)
        seen.append((protocol, contexts, results))
    (protocol, contexts, results), (other_protocol, other_contexts, other_results) = seen
    assert protocol.name == other_protocol.name
    z = torch.randn(5, 4)
    assert torch.equal(protocol(z), other_protocol(z))
    for context, other in zip(contexts, other_contexts, strict=True):
        assert torch.equal(context.z, other.z)
        assert torch.equal(context.y, other.y)
    for row in results.select(split="val"):
        assert np.array_equal(results.predictions[row.key], other_results.predictions[row.key])
        assert row.cross_entropy == other_results.rows[row.key].cross_entropy
    assert any(row.accuracy != other_results.rows[row.key].accuracy for row in results.select(split="test"))


def test_protocol_is_chosen_by_accuracy_on_val():
    """The first column alone tells the classes apart; the second is wide and says nothing."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    z = torch.stack([y + 0.1 * torch.randn(60, generator=generator), 50 * torch.randn(60, generator=generator)], 1)
    train, val = (z[:30], y[:30]), (z[30:], y[30:])
    chosen, accuracy = choose_protocol(["pca1", "pca2"], train, val, 2, MINI, n_estimators=1)
    assert chosen.name == "pca2"
    assert accuracy["pca2"] > accuracy["pca1"]
    chosen, accuracy = choose_protocol(["raw", "post"], train, val, 2, MINI, n_estimators=1)
    assert accuracy["raw"] == accuracy["post"]
    assert chosen.name == "raw"  # the first wins a tie


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ({"pca8": [[0.85, 0.87, 0.86]]}, "pca8"),  # within 0.9 -+ 0.04, and fewer columns
        ({"pca8": [[0.75, 0.77, 0.76]]}, "pca16"),  # worse
        ({"raw": [[0.95, 0.95, 0.95]]}, "raw"),  # better by more than its error
        ({"raw": [[0.80, 0.93, 1.00]]}, "pca16"),  # better, but not for certain, and dearer
        ({"rotated16": [[0.88, 0.88, 0.88]]}, "pca16"),  # as many columns, and less accurate
    ],
)
def test_one_standard_error_rule(others, chosen):
    assert fewest_columns_of_the_best({"pca16": [[0.82, 0.92, 0.96]], **others}) == chosen
