"""Contexts with TabICL in the loop: they improve what they are to improve, and see the training images alone."""

import numpy as np
import pytest
import torch

from synthicl.core.settings import of_subject
from synthicl.coresets.prototypes import starts
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.objectives.in_context import InContext
from synthicl.probes.score import score
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies import rivals
from synthicl.studies.contexts import real_contexts
from synthicl.studies.rivals import free_rows, optimise_rows, swap_tabicl
from synthicl.studies.subject import Subject


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """Three overlapping classes; val and test cannot be had."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    train = LabelledEmbeddings(1.5 * torch.eye(3, 6)[y] + torch.randn(90, 6, generator=generator), y)
    settings = of_subject("digits", {"tabicl.n_estimators": 2, "tabicl.preprocessing": "rotated4"})[1]
    subject = Subject(tmp_path, settings, _embedded={"train": train})
    _ = subject.deployment
    monkeypatch.setattr(Subject, "embedded", lambda self, split: {"train": train}[split])
    return subject


def loss(subject, rows):
    probe = TabICLProbe(subject.deployment)
    probe.fit(rows)
    return score(probe, subject.embedded("train"), np.arange(3))[1]["cross_entropy"]


def test_swaps_lower_the_loss_of_tabicl(subject, monkeypatch):
    monkeypatch.setattr(rivals, "EVALUATIONS", 25)
    found, again = (swap_tabicl(subject, 1, 0) for _ in range(2))
    assert torch.equal(found.indices, again.indices)
    [centroid] = real_contexts(subject, 1, 1, ["centroid"])
    assert loss(subject, found.rows) < loss(subject, centroid.rows)


@pytest.mark.parametrize("ipc", [1, 2])
def test_free_rows_lower_the_loss_of_tabicl(subject, monkeypatch, ipc):
    monkeypatch.setattr(rivals, "STEPS", 40)
    found, again = (free_rows(subject, ipc, 0) for _ in range(2))
    assert torch.equal(found.rows.z, again.rows.z)
    assert found.indices is None and found.rows.y.tolist() == [label for label in range(3) for _ in range(ipc)]
    assert loss(subject, found.rows) < loss(subject, starts(subject.embedded("train"), ipc, 0))


def test_rows_are_made_for_what_they_are_asked_about(subject, monkeypatch):
    """Of queries that lie elsewhere than the training images, rows made for them know more than rows made for those."""
    monkeypatch.setattr(rivals, "STEPS", 40)
    train = subject.embedded("train")
    elsewhere = train._replace(z=train.z.roll(1, 1))
    objective = InContext()
    objective.prepare(train, subject.deployment)
    for_train, for_elsewhere = (optimise_rows(objective, train, real, 1, 0) for real in (train, elsewhere))

    def loss_elsewhere(rows):
        probe = TabICLProbe(subject.deployment)
        probe.fit(rows)
        return score(probe, elsewhere, np.arange(3))[1]["cross_entropy"]

    assert loss_elsewhere(for_elsewhere) < loss_elsewhere(for_train)
    assert loss(subject, for_train) < loss(subject, for_elsewhere)


def test_rivals_are_contexts_by_name_and_say_how_long_they_took(subject, monkeypatch):
    monkeypatch.setattr(rivals, "STEPS", 2)
    [context] = real_contexts(subject, 1, 1, ["free_rows"])
    assert context.name == "free_rows" and context.images is None
    assert context.measures["selection_seconds"] > 0
    assert "free_rows" not in {context.name for context in real_contexts(subject, 1, 1)}
