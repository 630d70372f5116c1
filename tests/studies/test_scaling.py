"""Shares of the training rows against properties that define them; the curve's mathematics against closed forms."""

import numpy as np
import pytest
import torch

from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.results import Results
from synthicl.studies.scaling import compute as module
from synthicl.studies.scaling.compute import draw_share, equivalent_rows, fit_on_share, fit_power_law, scaling
from synthicl.studies.scoring import Context
from synthicl.studies.subject import Subject
from synthicl.tabicl.preprocessing import fit_preprocessing

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def clusters(n, classes=3, dim=6, seed=0):
    """Embeddings (n, dim) around a corner for each class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return LabelledEmbeddings(torch.eye(classes, dim)[y] * 3 + torch.randn(n, dim, generator=generator), y)


@pytest.fixture
def toy(tmp_path):
    """A function that makes a subject of three toy splits, its folder by name."""

    def make(name="toy", test=None, preprocessing="rotated4"):
        settings = of_subject("digits", {"tabicl.preprocessing": preprocessing, "tabicl.n_estimators": 1})[1]
        splits = {"train": clusters(60), "val": clusters(20, seed=1), "test": test or clusters(25, seed=2)}
        return Subject(tmp_path / name, settings, _embedded=splits)

    return make


SMALL = {"shares": (0.1, 0.5, 1.0), "seeds": 2}


def test_a_stratified_share_has_the_same_part_of_each_class():
    for share in (0.1, 0.2, 0.5, 1.0):
        chosen = draw_share(LABELS, share, "stratified", 0)
        assert LABELS[chosen].bincount().tolist() == [round(share * count) for count in (50, 30, 20)]
    assert LABELS[draw_share(LABELS, 0.001, "stratified", 0)].tolist() == [0, 1, 2]  # a row of each at least


def test_a_shuffled_share_may_lack_a_class():
    chosen = [draw_share(LABELS, 0.03, "shuffled", draw) for draw in range(40)]
    assert {len(rows) for rows in chosen} == {3}
    assert len({len(LABELS[rows].unique()) for rows in chosen}) > 1
    assert len(torch.cat(chosen).unique()) > 50
    assert len(draw_share(LABELS, 0.001, "shuffled", 0)) == 2


@pytest.mark.parametrize("sampling", ["stratified", "shuffled"])
def test_shares_are_nested_without_replacement_and_functions_of_their_arguments(sampling):
    small, large = (draw_share(LABELS, share, sampling, 3).tolist() for share in (0.1, 0.4))
    torch.manual_seed(9)
    assert draw_share(LABELS, 0.1, sampling, 3).tolist() == small
    assert draw_share(LABELS, 0.1, sampling, 4).tolist() != small
    assert set(small) < set(large)
    assert len(set(large)) == len(large)


def test_rows_of_every_sampling_share_and_statistics(toy):
    subject, results = toy(), Results()
    scaling(subject, results, **SMALL)
    rows = {(row.context, row.n_context, row.draw, row.statistics): row for row in results.rows.values()}
    y = subject.embedded("train").y
    assert rows.keys() == {("all", 60, 0, "train")} | {
        (sampling, len(draw_share(y, share, sampling, draw)), draw, statistics)
        for sampling in ("stratified", "shuffled")
        for share in (0.1, 0.5)
        for draw in (0, 1)
        for statistics in ("train", "share")
    }
    assert {row.split for row in rows.values()} == {"test"}
    assert {row.preprocessing for row in rows.values() if row.statistics == "train"} == {"rotated4"}
    assert rows["all", 60, 0, "train"].measures == {"share": 1.0, "classes": 3.0}
    assert Results.load(subject.output).rows == results.rows


def test_a_share_of_few_rows_has_as_many_columns_as_directions():
    z = clusters(40).z
    preprocessing = fit_preprocessing("rotated4", z, 7)
    few = fit_on_share(preprocessing, z[:3])
    assert (few.name, few.statistics, few.n_estimators) == ("rotated2", "share", 7)
    assert few(z).shape == (40, 2)
    many = fit_on_share(preprocessing, z[:20])
    assert many.name == "rotated4"
    torch.testing.assert_close(many.mean, z[:20].mean(0))


def test_without_a_reduction_there_is_nothing_to_fit_on_the_share(toy):
    results = Results()
    scaling(toy(preprocessing="raw"), results, shares=(0.2,), seeds=1)
    assert [(row.context, row.statistics) for row in results.rows.values()] == [
        ("stratified", "context"),
        ("shuffled", "context"),
    ]


def test_larger_shares_are_cut_to_the_most_rows(toy):
    results = Results()
    scaling(toy(), results, shares=(0.1, 0.5, 1.0), samplings=["shuffled"], seeds=1, max_rows=12)
    assert sorted({row.n_context for row in results.rows.values()}) == [6, 12]


def test_the_same_rows_come_again_and_measured_ones_are_kept(toy, monkeypatch):
    first, second = Results(), Results()
    scaling(toy("a"), first, **SMALL)
    torch.manual_seed(5)
    scaling(toy("b"), second, **SMALL)
    assert first.rows.keys() == second.rows.keys()
    for key, row in first.rows.items():
        assert (row.fingerprint, row.cross_entropy) == (second.rows[key].fingerprint, second.rows[key].cross_entropy)
        assert np.array_equal(first.predictions[key], second.predictions[key])
    before = dict(first.rows)
    monkeypatch.setattr(TabICLProbe, "predict_proba", None)  # nothing is predicted any more
    scaling(toy("a"), first, **SMALL)
    assert first.rows == before


def test_queries_are_in_no_context_and_what_they_are_changes_only_their_scores(toy, monkeypatch):
    clean = clusters(25, seed=2)
    train = {tuple(row.tolist()) for row in clusters(60).z}
    seen = []
    for test in (clean, LabelledEmbeddings(clean.z * 1e4 - 7, clean.y.flip(0))):
        contexts = []
        fit = TabICLProbe.fit

        def spy(self, context, images=None, contexts=contexts, fit=fit):
            contexts.append((self.preprocessing(context.z), context.y))
            assert {tuple(row.tolist()) for row in context.z} <= train
            fit(self, context, images)

        with monkeypatch.context() as patch:
            patch.setattr(TabICLProbe, "fit", spy)
            results = Results()
            scaling(toy(f"{len(seen)}", test), results, **SMALL)
        seen.append((contexts, results))
    (contexts, results), (others, other_results) = seen
    assert results.rows.keys() == other_results.rows.keys()
    for (z, y), (other_z, other_y) in zip(contexts, others, strict=True):
        assert torch.equal(z, other_z)
        assert torch.equal(y, other_y)
    assert any(row.accuracy != other_results.rows[key].accuracy for key, row in results.rows.items())


def test_synthetic_contexts_stand_on_the_same_axes(toy, monkeypatch):
    synthetic = Context("synthetic", 0, "last", clusters(3, seed=8))
    monkeypatch.setattr(module, "synthetic_contexts", lambda subject: [synthetic])
    results = Results()
    scaling(toy(), results, shares=(0.2,), seeds=1)
    (row,) = results.select(context="synthetic")
    assert (row.n_context, row.checkpoint, row.statistics) == (3, "last", "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (0.1, 1.5)}, r"--shares=1\.5: a share of the training rows lies in \(0, 1\]"),
        ({"shares": (0.0,)}, r"--shares=0\.0"),
        ({"samplings": ["sorted"]}, r"--samplings=sorted: unknown\. Choose among: stratified, shuffled"),
        ({"seeds": 0}, r"--seeds=0: must lie between 1 and"),
        ({"max_rows": 1}, r"--max_rows=1: must be at least 2"),
    ],
)
def test_messages(toy, settings, message):
    with pytest.raises(UserError, match=message):
        scaling(toy(), Results(), **settings)


ROWS = np.array([10.0, 100.0, 1000.0])


@pytest.mark.parametrize(
    ("accuracy", "reached", "rows"),
    [
        ((0.6, 0.8, 0.9), 0.7, 10**1.5),  # half of the way from 10 to 100 on a logarithmic axis
        ((0.6, 0.8, 0.9), 0.85, 10**2.5),
        ((0.6, 0.8, 0.9), 0.825, 10**2.25),
        ((0.6, 0.8, 0.9), 0.8, 100),
        ((0.6, 0.8, 0.9), 0.9, 1000),
        ((0.6, 0.8, 0.9), 0.91, np.inf),
        ((0.6, 0.8, 0.9), 0.6, 10),
        ((0.6, 0.8, 0.9), 0.1, 10),
        ((0.6, 0.9, 0.8), 0.75, 10**1.5),  # the first crossing counts
        ((0.6, 0.9, 0.8), 0.9, 100),
        ((0.7, 0.7, 0.7), 0.7, 10),
        ((0.5, 0.5, 0.7), 0.6, 10**2.5),
    ],
)
def test_equivalent_rows_by_hand(accuracy, reached, rows):
    assert equivalent_rows(ROWS, np.array(accuracy), reached) == pytest.approx(rows)


def test_equivalent_rows_grow_with_the_accuracy():
    curve = np.array([0.3, 0.5, 0.9])
    found = [equivalent_rows(ROWS, curve, reached) for reached in np.linspace(0.2, 0.95, 40)]
    assert found == sorted(found)


@pytest.mark.parametrize(("a", "b", "p"), [(0.3, 2e-4, 1.3), (10, 2e-6, 2), (1e-3, 1e-5, 1), (38, 7e-3, 1)])
def test_an_exact_power_law_is_recovered(a, b, p):
    n = np.array([1000, 2500, 5000, 10000, 30000, 50000]) / (1 if a > 1 else 50)
    law = fit_power_law(n, a + b * n**p)
    assert law[:3] == pytest.approx((a, b, p), rel=1e-4)
    assert law.error < 1e-4


def test_a_power_law_without_a_constant():
    n = np.array([18, 45, 90, 180, 540, 899.0])
    law = fit_power_law(n, 2e-4 * n**1.3)
    assert law[:3] == pytest.approx((0, 2e-4, 1.3), abs=1e-4)


def test_noise_is_within_the_exponents_error():
    n, random = np.geomspace(20, 50_000, 8), np.random.default_rng(0)
    laws = [fit_power_law(n, (0.5 + 1e-4 * n**1.5) * np.exp(random.normal(0, 0.1, 8))) for _ in range(50)]
    errors = np.array([(law.p - 1.5) / law.error for law in laws])
    assert abs(errors.mean()) < 0.5
    assert 0.7 < errors.std() < 2  # a t distribution with 5 degrees of freedom: 1.3


@pytest.mark.parametrize(
    "seconds",
    [
        [0.3] * 6,
        [0.30, 0.31, 0.29, 0.30, 0.31, 0.30],
        [0.9, 0.8, 0.6, 0.4, 0.3, 0.2],
        [0.1, 0.2, 0.4],
        [0.20, 0.20, 0.21, 0.20, 0.21, 0.40],
    ],
    ids=["constant", "noise", "falling", "three sizes", "one size decides"],
)
def test_where_there_is_no_power_law(seconds):
    n = np.geomspace(10, 1000, len(seconds))
    assert fit_power_law(n, np.array(seconds)) is None


def test_shares_take_turns():
    """Draw by draw: seconds of all shares are measured under the same load."""
    train = clusters(60)
    names = [[(c.name, c.draw) for c in module.real_contexts(train, share, ["shuffled"], 1)] for share in (0.5, 1)]
    assert names == [[("shuffled", 1)], []]
    assert [c.name for c in module.real_contexts(train, 1, ["shuffled"], 0)] == ["all"]
