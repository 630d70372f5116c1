"""What is promised from val meets test and noise: on the bundled digits, with rows that are training images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synthicl.artefact.context_set import ContextSet
from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.coresets import CORESETS
from synthicl.probes.calibrated import calibrate
from synthicl.probes.calibration import tempered
from synthicl.probes.novelty import fit_novelty
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject
from synthicl.studies.trust import TRUST
from synthicl.studies.trust.compute import LEVELS, smoothed, trust
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A context set of two real rows of each class, calibrated at another temperature than val's."""
    made = tmp_path_factory.mktemp("run")
    subject = Subject(made, of_subject("digits", {})[1])
    train = subject.embedded("train")
    rows = CORESETS.get("centroid")(train, 2, 0).rows
    preprocessing = fit_preprocessing("rotated16", train.z, 2)
    probe = TabICLProbe(Deployment(preprocessing, "mini", subject.checkpoint))
    probe.fit(rows)
    calibration = calibrate(probe, np.arange(10), subject.embedded("val"), fit_novelty(train.z))
    metadata = {
        "dataset": "digits",
        "backbone": "mini",
        "backbone_weights": subject.backbone.fingerprint,
        "crop_size": 32,
        "objective": "Toy",
        "tabicl_checkpoint": "mini",
        "ipc": 2,
    }
    names = subject.data.class_names
    kept = replace(calibration, temperature=1.25)
    ContextSet(rows.z, rows.y, names, preprocessing, metadata=metadata, calibration=kept).save(made)
    return made


@pytest.fixture(scope="module")
def scored(folder, tmp_path_factory):
    subject = Subject(folder, of_subject(str(folder), {})[1], elsewhere=tmp_path_factory.mktemp("results"))
    results = Results()
    trust(subject, results, contexts=["centroid"], noise=40)
    return subject, results


def test_the_numbers_are_those_of_the_probe_and_what_the_set_keeps(scored):
    subject, results = scored
    row = results.select(context="synthetic")[0]
    kept = subject.context_sets["last"].calibration
    assert row.measures["temperature"] == kept.temperature == 1.25
    probe, test = TabICLProbe(subject.deployment), subject.embedded("test")
    probe.fit(subject.context_sets["last"].rows)
    after, truth = tempered(probe.predict_proba(test.z), 1.25), test.y.numpy()
    expected = -np.log(after[np.arange(len(truth)), truth]).mean()
    assert row.measures["tempered_cross_entropy"] == pytest.approx(expected, rel=1e-4)
    for level in LEVELS:
        sets = kept.sets(after, level)
        assert row.measures[f"coverage_{level}"] == pytest.approx(sets[np.arange(len(truth)), truth].mean())
        assert row.measures[f"size_{level}"] == pytest.approx(sets.sum(1).mean())
    novelty = results.arrays[f"trust/novelty/test/{row.key}"]
    np.testing.assert_allclose(novelty, kept.novelty(test.z), rtol=1e-5)


def test_a_context_that_keeps_nothing_is_calibrated_here(scored):
    _, results = scored
    real, synthetic = (results.select(context=name)[0] for name in ("centroid", "synthetic"))
    assert real.fingerprint == synthetic.fingerprint  # the same rows
    assert real.measures["temperature"] != 1.25
    assert real.measures["tempered_cross_entropy"] <= real.cross_entropy


def test_test_is_held_as_often_as_is_asked_for_and_noise_is_rejected(scored):
    _, results = scored
    row = results.select(context="centroid")[0]
    for level in LEVELS:
        assert row.measures[f"coverage_{level}"] > level - 0.03
    most = row.measures["most_novel"]
    assert (results.arrays[f"trust/novelty/test/{row.key}"] > most).mean() < 0.1
    for name in ("noise", "smooth noise"):
        assert (results.arrays[f"trust/novelty/{name}/{row.key}"] > most).mean() > 0.9


def test_the_same_is_not_scored_again_and_other_images_are(scored, monkeypatch):
    subject, results = scored
    before = dict(results.rows)
    with monkeypatch.context() as patch:
        patch.setattr(TabICLProbe, "fit", None)
        trust(subject, results, contexts=["centroid"], noise=40)
    assert results.rows == before
    copy = Results(dict(results.rows), dict(results.predictions), dict(results.labels), dict(results.arrays))
    trust(subject, copy, contexts=[], noise=3)
    assert [row.context for row in copy.rows.values()] == ["synthetic"]
    assert {len(array) for name, array in copy.arrays.items() if "noise/" in name} == {3}


def test_tables_finding_and_figure_show_what_was_scored(scored):
    _, results = scored
    calibration, coverage, novelty = TRUST.tables(results)
    assert [line[:2] for line in calibration.body[:2]] == [
        ["synthetic", "TabICL"],
        ["synthetic", "TabICL, temperature from val"],
    ]
    assert [line[1] for line in coverage.body[:4]] == ["80.0", "90.0", "95.0", "99.0"]
    assert [line[0] for line in novelty.body] == ["test", "noise", "smooth noise"]
    assert all(len(line) == len(table.header) for table in (calibration, coverage, novelty) for line in table.body)
    row = results.select(context="synthetic")[0]
    assert f"{100 * row.measures['coverage_0.95']:.1f} [" in TRUST.finding(results)
    assert coverage.body[2][2] in TRUST.finding(results)
    assert "AUROC against test: noise" in TRUST.figures(results)["novelty"].get_label()
    assert (TRUST.tables(Results()), TRUST.figures(Results()), TRUST.finding(Results())) == ([], {}, "")


def test_messages(scored, tmp_path):
    subject, _ = scored
    with pytest.raises(UserError, match=r"--others=digits: is what .* was made from\. Name another dataset"):
        trust(subject, Results(), others=["digits"])
    with pytest.raises(UserError, match="--others=nope: unknown"):
        trust(subject, Results(), others=["nope"])
    with pytest.raises(UserError, match=f"--others=folder={tmp_path}/gone: "):
        trust(subject, Results(), others=[f"folder={tmp_path}/gone"])


def test_smoothed_noise_uses_all_levels_and_has_equal_neighbours():
    white = torch.rand(3, 3, 32, 32)
    found = smoothed(white)
    assert found.dtype == torch.uint8 and found.amin((1, 2, 3)).tolist() == [0] * 3
    assert found.amax((1, 2, 3)).tolist() == [255] * 3
    near = (found[..., 1:].int() - found[..., :-1].int()).abs().float().mean()
    assert near < 0.5 * (255 * (white[..., 1:] - white[..., :-1])).abs().mean()
