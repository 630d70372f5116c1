"""The matrix on the bundled digits and backbones: PNGs give back the stored rows and their accuracy."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from synthicl.artefact.context_set import ContextSet
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.backbones.models import efficientnet
from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.data.transforms import centre_square
from synthicl.embeddings.embedder import embed_squares
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.compare.compute import compare
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject, embed
from synthicl.studies.transfer.compute import as_seen, relatives, synthetic_as_seen, transfer
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

BACKBONES = ("mini", "mini_conv")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two finished runs, one for each bundled backbone; their images are training images with noise."""
    folders = {}
    for backbone in BACKBONES:
        folder = tmp_path_factory.mktemp(backbone)
        settings = of_subject("digits", {"backbone.name": backbone})[1]
        subject = Subject(folder, settings)
        labels = torch.arange(10)
        first = torch.tensor([int(np.flatnonzero(subject.data.splits["train"].labels == label)[0]) for label in labels])
        noise = torch.randint(-20, 20, (10, 3, 32, 32), generator=torch.Generator().manual_seed(0))
        images = (subject.images(first).int() + noise).clamp(0, 255).to(torch.uint8)
        with torch.no_grad():
            z = subject.backbone(images / 255)
        metadata = {
            "dataset": "digits",
            "backbone": backbone,
            "backbone_weights": subject.backbone.fingerprint,
            "crop_size": 32,
            "objective": "Toy",
            "tabicl_checkpoint": "mini",
            "ipc": 1,
            "seed": 0,
        }
        preprocessing = fit_preprocessing("rotated8", subject.embedded("train").z, 2)
        ContextSet(z, labels, subject.data.class_names, preprocessing, images, metadata).save(folder)
        folders[backbone] = folder
    return folders


def subject_of(folder, output, **given):
    return Subject(folder, of_subject(str(folder), given)[1], elsewhere=output)


@pytest.fixture(scope="module")
def matrix(runs, tmp_path_factory):
    subject = subject_of(runs["mini"], tmp_path_factory.mktemp("matrix"))
    results = Results()
    transfer(subject, results, runs=[str(runs["mini_conv"])], random_draws=2)
    return subject, results


def test_runs_of_two_objectives_with_one_backbone_are_refused(runs, tmp_path):
    other = ContextSet.load(runs["mini"])
    other.metadata |= {"objective": "Another", "seed": 1}
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match=r"--runs=.*other: was made with another objective than .*Leave one out"):
        transfer(subject_of(runs["mini"], tmp_path), Results(), runs=[str(tmp_path / "other")])


def test_runs_of_two_splits_are_refused(runs, tmp_path):
    other = ContextSet.load(runs["mini_conv"])
    other.metadata |= {"split_seed": 3}
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match=r"--runs=.*other: was made with --data\.split_seed=3, .* Name runs with 0\."):
        transfer(subject_of(runs["mini"], tmp_path), Results(), runs=[str(tmp_path / "other")])


def test_saved_pngs_give_the_stored_rows_and_the_stored_accuracy(runs, tmp_path):
    subject, stored = subject_of(runs["mini"], tmp_path), Results()
    compare(subject, stored, contexts=(), probes=("tabicl",))
    (row,) = stored.select(split="test", context="synthetic")
    context = subject.context_sets["last"]
    paths = [runs["mini"] / "images" / name / "000.png" for name in context.class_names]
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])
    assert torch.equal(images, context.images)
    z = embed_squares(subject.backbone, as_seen(images, subject.crop_size, subject.crop_size))
    torch.testing.assert_close(z, context.embeddings, rtol=1e-4, atol=1e-5)
    probe = TabICLProbe(Deployment(context.preprocessing, "mini", subject.checkpoint))
    probe.fit(context.rows._replace(z=z))
    test = subject.embedded("test")
    predictions = probe.predict_proba(test.z).argmax(1)
    assert np.array_equal(predictions, stored.predictions[row.key])
    assert (predictions == test.y.numpy()).mean() == row.accuracy


def test_on_its_own_backbone_a_context_has_the_stored_accuracy(matrix, tmp_path):
    subject, results = matrix
    stored = Results()
    compare(subject_of(subject.folder, tmp_path), stored, contexts=("centroid",), probes=("tabicl", "linear"))
    for probe in ("tabicl", "linear"):
        for name, context in (("synthetic (mini)", "synthetic"), ("centroid", "centroid")):
            for split in ("val", "test"):
                (here,) = results.select(probe=probe, split=split, context=name, backbone="mini")
                (there,) = stored.select(probe=probe, split=split, context=context)
                assert here.accuracy == there.accuracy
                assert np.array_equal(results.predictions[here.key], stored.predictions[there.key])


def test_a_row_for_every_source_and_observer(matrix, runs):
    subject, results = matrix
    contexts = {"synthetic (mini)": 1, "synthetic (mini_conv)": 1, "class_mean": 1, "centroid": 1, "random": 2}
    for observer in BACKBONES:
        for context, draws in contexts.items():
            for probe in ("tabicl", "linear"):
                rows = results.select(backbone=observer, context=context, probe=probe, split="test")
                assert len(rows) == draws
                for row in rows:
                    source = context[11:-1] if context.startswith("synthetic") else None
                    assert row.run.get("backbone") == source
                    assert row.preprocessing == ("rotated8" if probe == "tabicl" else "")
                    assert row.n_context == 10
    assert len(results.rows) == 2 * sum(contexts.values()) * 2 * 2
    assert {row.run["seen_by_weights"] for row in results.select(backbone="mini")} == {subject.backbone.fingerprint}
    assert not (runs["mini_conv"] / "results.json").exists()  # a further run's folder stays as it is
    assert (subject.output / "results.json").exists()


def test_everything_in_a_column_is_embedded_by_its_backbone(matrix, runs):
    """mini's images as mini_conv sees them, with a preprocessing fitted on what mini_conv sees, by hand."""
    subject, results = matrix
    other = subject_of(runs["mini_conv"], None)
    train, test = (embed(other.backbone, subject.data, split, 32) for split in ("train", "test"))
    with torch.no_grad():
        z = other.backbone(subject.context_sets["last"].images / 255)
    probe = TabICLProbe(Deployment(fit_preprocessing("rotated8", train.z, 2), "mini", subject.checkpoint))
    probe.fit(LabelledEmbeddings(z, torch.arange(10)))
    (row,) = results.select(split="test", probe="tabicl", context="synthetic (mini)", backbone="mini_conv")
    assert np.array_equal(probe.predict_proba(test.z).argmax(1), results.predictions[row.key])


def test_relatives_are_those_on_disk(monkeypatch, tmp_path):
    assert list(relatives(["mini_conv"])) == ["mini", "mini_conv"]
    assert list(relatives(["dinov2_vitb14"])) == []
    lite0, lite2 = efficientnet.REGISTERED.values()
    (tmp_path / "weights").touch()
    lite0 = replace(lite0, weights=replace(lite0.weights, places=(tmp_path / "weights",)))
    lite2 = replace(lite2, weights=replace(lite2.weights, places=(tmp_path / "gone",)))
    family = {"efficientnet_lite0": lite0, "efficientnet_lite2": lite2}
    monkeypatch.setattr("synthicl.studies.transfer.compute.FAMILIES", (family,))
    assert list(relatives(["efficientnet_lite2"])) == ["efficientnet_lite0"]


@pytest.mark.skipif(
    not all(spec.weights.find() for spec in efficientnet.REGISTERED.values()), reason="no weights installed"
)
def test_images_of_one_efficientnet_are_seen_by_the_other_and_by_a_small_backbone(image_folder, tmp_path):
    """At 128 px both look at them as they are."""
    root = image_folder({f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("cat", "dog")})
    names = tuple(efficientnet.REGISTERED)
    folders = {}
    for name in names:
        asked = {"data.root": str(root), "data.num_workers": 0, "backbone.name": name, "tabicl.checkpoint": "mini"}
        subject = Subject(tmp_path / name, of_subject("folder", asked)[1])
        assert subject.crop_size == 128
        images = torch.randint(256, (2, 3, 128, 128), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        metadata = {
            "dataset": "folder",
            "backbone": name,
            "backbone_weights": subject.backbone.fingerprint,
            "crop_size": 128,
            "objective": "Toy",
            "tabicl_checkpoint": "mini",
            "ipc": 1,
            "seed": 0,
        }
        z = embed_squares(subject.backbone, images)
        preprocessing = fit_preprocessing("raw", subject.embedded("train").z, 1)
        ContextSet(z, torch.arange(2), subject.data.class_names, preprocessing, images, metadata).save(tmp_path / name)
        folders[name] = tmp_path / name
    for made, other in (names, names[::-1]):
        subject = subject_of(folders[made], tmp_path / "out", **{"data.root": str(root), "data.num_workers": 0})
        seen = synthetic_as_seen(subject, FrozenBackbone(other), 128)
        assert torch.equal(seen.rows.z, ContextSet.load(folders[other]).embeddings)  # the images are the same
        results = Results()
        transfer(subject, results, random_draws=1)
        assert {row.backbone for row in results.select(context=f"synthetic ({made})")} == set(names)
        transfer(subject, results, backbones=("mini",), random_draws=1)
        assert results.select(context=f"synthetic ({made})", backbone="mini")


def test_what_is_measured_is_not_measured_again(matrix, runs):
    subject, results = matrix
    before = {key: row.predict_seconds for key, row in results.rows.items()}
    transfer(subject, results, runs=[str(runs["mini_conv"])], random_draws=2)
    assert {key: row.predict_seconds for key, row in results.rows.items()} == before


def test_a_dataset_alone_has_the_references(tmp_path):
    settings = of_subject("digits", {"tabicl.preprocessing": "rotated8", "tabicl.n_estimators": 1})[1]
    results = Results()
    transfer(Subject(tmp_path, settings), results, backbones=("mini",), random_draws=1)
    assert {row.context for row in results.rows.values()} == {"class_mean", "centroid", "random"}
    assert {row.backbone for row in results.rows.values()} == {"mini"}


def test_poisoned_test_embeddings_change_nothing_but_test_rows(matrix, tmp_path):
    clean_subject, clean = matrix
    subject, poisoned = subject_of(clean_subject.folder, tmp_path), Results()
    test = clean_subject.embedded("test")
    subject._embedded["test"] = LabelledEmbeddings(test.z * 1e6 - 7, test.y.flip(0))
    transfer(subject, poisoned, backbones=("mini",), random_draws=2)
    for row in poisoned.select(split="val"):
        assert row.accuracy == clean.rows[row.key].accuracy
        assert row.cross_entropy == clean.rows[row.key].cross_entropy
        assert np.array_equal(poisoned.predictions[row.key], clean.predictions[row.key])
    assert any(row.accuracy != clean.rows[row.key].accuracy for row in poisoned.select(split="test"))


def test_what_a_backbone_of_another_resolution_is_shown():
    images = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_seen(images, 32, 32), images[..., 4:36, 4:36])
    for size in (24, 64):
        shown = as_seen(images, 32, size)
        picture = Image.fromarray(images[1].permute(1, 2, 0).numpy())
        assert shown.shape == (2, 3, size, size)
        assert torch.equal(shown[1], centre_square(picture, size))


def test_messages(matrix, runs, tmp_path):
    subject, _ = matrix
    relative = tmp_path / "other"
    shutil.copytree(runs["mini"], relative)
    context = ContextSet.load(relative)
    cases = [
        ({"weights": ("mini",)}, r"--weights=mini: give name=path, for example dinov2_vitb14=/data/weights\.pth"),
        ({"backbones": ("resnet9000",)}, r"--backbones=resnet9000: unknown\. Choose one of: .*mini, mini_conv"),
        ({"runs": ("digits",)}, r"outputs/digits/evaluation/mini: there are no synthetic images\. Name the folder"),
        ({"runs": (str(relative),)}, r"has the backbone and the seed of .*, so one would replace the other"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message):
            transfer(subject, Results(), **given)
    context.metadata["ipc"] = 2
    context.save(relative)
    with pytest.raises(UserError, match=r"digits with 2 images per class cannot stand in a matrix of digits with 1\."):
        transfer(subject, Results(), runs=(str(relative),))
    context.images = None
    context.save(relative)
    with pytest.raises(UserError, match="there are no synthetic images"):
        transfer(subject, Results(), runs=(str(relative),))
