"""Probes against the libraries behind them, on the bundled TabICL."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tabicl import TabICLClassifier

from synthicl.errors import UserError
from synthicl.in_context.checkpoint import MINI
from synthicl.in_context.protocol import fit_protocol
from synthicl.probes import tabicl
from synthicl.probes.linear import C, LinearProbe
from synthicl.probes.tabicl import TabICLProbe


def clusters(n, classes=4, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.eye(classes, dim)[y] * 4 + torch.randn(n, dim, generator=generator), y


Z, Y = clusters(20)
QUERIES, TRUTH = clusters(40, seed=1)


def tabicl_probe(protocol="rotated3", members=2, **options):
    return TabICLProbe(fit_protocol(protocol, Z, members), MINI, **options)


PROBES = {"linear": LinearProbe, "tabicl": tabicl_probe}


def test_linear_equals_scikit_learn():
    probe = LinearProbe()
    probe.fit(Z, Y)
    theirs = LogisticRegression(C=1.0, max_iter=5000).fit(Z.numpy(), Y.numpy())
    assert C == 1.0
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), theirs.predict_proba(QUERIES.numpy()))


@pytest.mark.parametrize("protocol", ["raw", "pca3"])
def test_tabicl_equals_its_own_classifier(protocol):
    probe = tabicl_probe(protocol)
    probe.fit(Z, Y)
    columns = fit_protocol(protocol, Z)
    theirs = TabICLClassifier(
        n_estimators=2, model_path=MINI, allow_auto_download=False, device="cpu", random_state=42
    ).fit(columns(Z).numpy(), Y.numpy())
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), theirs.predict_proba(columns(QUERIES).numpy()))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_chunks_of_queries_change_nothing(monkeypatch, size):
    probe = tabicl_probe()
    probe.fit(Z, Y)
    whole = probe.predict_proba(QUERIES)
    monkeypatch.setattr(tabicl, "QUERY_CHUNK", size)
    np.testing.assert_allclose(probe.predict_proba(QUERIES), whole, atol=1e-5)


@pytest.mark.parametrize("make", PROBES.values(), ids=PROBES)
def test_columns_follow_the_sorted_labels_gaps_included(make):
    labels = torch.tensor([7, 0, 4, 9])
    plain, gaps = make(), make()
    plain.fit(Z, labels.argsort().argsort()[Y])  # the same classes, numbered without gaps
    gaps.fit(Z, labels[Y])
    probabilities = gaps.predict_proba(QUERIES)
    assert probabilities.shape == (40, 4)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities, plain.predict_proba(QUERIES))
    predicted = labels.sort().values.numpy()[probabilities.argmax(1)]
    assert (predicted == labels[TRUTH].numpy()).mean() > 0.8


@pytest.mark.parametrize("make", PROBES.values(), ids=PROBES)
def test_fitting_again_forgets_and_repeats(make):
    probe = make()
    probe.fit(Z, Y)
    first = probe.predict_proba(QUERIES)
    probe.fit(-Z, Y.flip(0))
    probe.fit(Z, Y)
    np.testing.assert_array_equal(probe.predict_proba(QUERIES), first)


@pytest.mark.parametrize("make", PROBES.values(), ids=PROBES)
def test_one_row_for_each_class_is_enough(make):
    probe = make()
    probe.fit(torch.eye(4, 6) * 4, torch.arange(4))
    assert (probe.predict_proba(QUERIES).argmax(1) == TRUTH.numpy()).mean() > 0.6


def test_message_for_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "notes.ckpt"
    path.write_text("x")
    with pytest.raises(UserError, match=r"^--tabicl\.model_path=.*notes\.ckpt: not a TabICL checkpoint"):
        TabICLProbe(fit_protocol("raw", Z), path)
