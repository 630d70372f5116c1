"""TabPFN behind the interface, with a stand-in for the package, and what is said where it is missing."""

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from synthicl.core.errors import UserError
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import probe_factory, tabpfn
from synthicl.probes.probe import ProbeSetting
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

Z = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([2, 5, 7]).repeat(4)
SETTING = ProbeSetting(Deployment(fit_preprocessing("pca3", Z, 4), "mini", MINI), seed=6)


class TabPFNClassifier:
    """Keeps what it is given; the nearest row decides."""

    def __init__(self, *, n_estimators, model_path, device, random_state):
        self.given = (n_estimators, model_path, device, random_state)

    def fit(self, rows, y):
        if len(set(y.tolist())) > 10:
            raise ValueError("Number of classes `11` exceeds the maximum\nnumber of classes `10`.")
        self.rows, (self.classes_, self.y) = rows, np.unique(y, return_inverse=True)

    def predict_proba(self, queries):
        nearest = ((queries[:, None] - self.rows) ** 2).sum(-1).argmin(1)
        return np.eye(len(self.classes_))[self.y[nearest]]


@pytest.fixture
def package(monkeypatch, tmp_path):
    """The stand-in, installed, and a checkpoint."""
    module = ModuleType("tabpfn")
    module.TabPFNClassifier = TabPFNClassifier
    monkeypatch.setitem(sys.modules, "tabpfn", module)
    monkeypatch.delenv("TABPFN_DISABLE_TELEMETRY", raising=False)
    path = tmp_path / "classifier.ckpt"
    path.touch()
    monkeypatch.setenv(tabpfn.VARIABLE, str(path))
    return path


@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_it_is_given_the_columns_and_members_of_the_preprocessing(package, monkeypatch, chunk):
    monkeypatch.setattr(tabpfn, "QUERY_CHUNK", chunk)
    probe = probe_factory("tabpfn")(SETTING)
    assert (probe.name, probe.preprocessing, probe.needs_images) == ("tabpfn", SETTING.deployment.preprocessing, False)
    assert probe.classifier.given == (4, str(package), "cpu", 6)
    probe.fit(LabelledEmbeddings(Z, Y))
    np.testing.assert_array_equal(probe.classifier.rows, SETTING.deployment.preprocessing(Z).numpy())
    probabilities = probe.predict_proba(Z)
    assert probabilities.shape == (12, 3)
    np.testing.assert_array_equal(np.array([2, 5, 7])[probabilities.argmax(1)], Y)


def test_it_reports_nothing_to_anyone(package):
    probe_factory("tabpfn")(SETTING)
    assert os.environ["TABPFN_DISABLE_TELEMETRY"] == "1"


def test_message_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tabpfn", None)  # what makes an import fail
    with pytest.raises(UserError, match=r"^--probes=tabpfn: .*not installed\. Install it with: pip install tabpfn$"):
        probe_factory("tabpfn")(SETTING)


@pytest.mark.parametrize("path", [None, "", "missing.ckpt", "."])
def test_message_without_a_checkpoint(package, monkeypatch, path):
    if path is None:
        monkeypatch.delenv(tabpfn.VARIABLE)
    else:
        monkeypatch.setenv(tabpfn.VARIABLE, path)
    with pytest.raises(UserError, match=rf"^--probes=tabpfn: SYNTHICL_TABPFN_MODEL={path or ''}: not a file\. Set it"):
        probe_factory("tabpfn")(SETTING)


def test_message_for_a_context_that_it_refuses(package):
    probe = probe_factory("tabpfn")(SETTING)
    with pytest.raises(UserError, match=r"^--probes=tabpfn: Number of classes `11` exceeds the maximum number of cla"):
        probe.fit(LabelledEmbeddings(Z, torch.arange(12)))
