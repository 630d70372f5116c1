"""Nearness and membership on the bundled digits, with copies and leaks that were put there."""

import numpy as np
import pytest
import torch

from synthicl.artefact.context_set import ContextSet
from synthicl.core.auroc import auroc
from synthicl.core.errors import UserError
from synthicl.core.settings import of_subject
from synthicl.data.images import LabelledImages
from synthicl.data.transforms import SquareImages
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.studies import STUDIES
from synthicl.studies.privacy.compute import drawn, nearest_embeddings, nearest_pixels, privacy, to_own_class
from synthicl.studies.privacy.show import figures, finding, nearness, nearness_table, pairs_of_rows, tables
from synthicl.studies.publish import publish
from synthicl.studies.results import Results
from synthicl.studies.subject import Subject
from synthicl.tabicl.preprocessing import fit_preprocessing

COPIED = 4  # the class whose synthetic image is a training image


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run whose images are training images under heavy noise, one of them none; and what the study finds."""
    folder = tmp_path_factory.mktemp("run")
    subject = Subject(folder, of_subject("digits", {"tabicl.preprocessing": "rotated8"})[1])
    train = subject.data.splits["train"]
    first = torch.tensor([int(np.flatnonzero(train.labels == label)[0]) for label in range(10)])
    noise = torch.randint(-90, 90, (10, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    noise[COPIED] = 0
    images = (subject.images(first).int() + noise).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        z = subject.backbone(images / 255)
    z[COPIED] = subject.embedded("train").z[first[COPIED]]  # embedded in another batch it differs in the last digit
    metadata = {
        **{"dataset": "digits", "backbone": "mini", "backbone_weights": subject.backbone.fingerprint},
        **{"crop_size": 32, "objective": "Toy()", "tabicl_checkpoint": "mini", "ipc": 1, "seed": 0},
    }
    preprocessing = fit_preprocessing("rotated8", subject.embedded("train").z, 1)
    ContextSet(z, torch.arange(10), subject.data.class_names, preprocessing, images, metadata).save(folder)
    subject = Subject(folder, of_subject(str(folder), {})[1], made_by="synthicl privacy run")
    results = Results()
    privacy(subject, results, max_images=150)
    return subject, results, first


def row_of(results, context, split="train"):
    (row,) = results.select(context=context, split=split)
    return row


@pytest.mark.parametrize("rows", [1, 70])
def test_nearest_embeddings_by_brute_force(rows):
    generator = torch.Generator().manual_seed(0)
    z, train = torch.randn(rows, 4, generator=generator), torch.randn(20, 4, generator=generator)
    z[0] = train[7]
    found = nearest_embeddings(z, train)
    every = np.linalg.norm(z.double().numpy()[:, None] - train.double().numpy(), axis=2)
    np.testing.assert_allclose(found.distances, np.sort(every, 1)[:, :2])
    assert found.which.tolist() == every.argmin(1).tolist()
    assert found.distances[0, 0] == 0 and found.which[0] == 7


def test_nearest_pixels_by_brute_force():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (150, 6, 6, 3), dtype=np.uint8)  # more than are held at once
    train = SquareImages(LabelledImages(list(pixels), np.zeros(150)), 6)
    images = torch.from_numpy(random.integers(0, 256, (70, 3, 6, 6), dtype=np.uint8))
    images[3] = torch.from_numpy(pixels[149]).permute(2, 0, 1)
    found = nearest_pixels(images, train)
    flat = pixels.transpose(0, 3, 1, 2).reshape(150, -1).astype(float)
    every = np.sqrt(((images.numpy().reshape(70, 1, -1) - flat) ** 2).mean(2))
    np.testing.assert_allclose(found.distances, np.sort(every, 1)[:, :2])
    assert found.which.tolist() == every.argmin(1).tolist()
    assert found.distances[3, 0] == 0 and found.which[3] == 149


def test_distance_to_the_own_class_by_brute_force():
    rows = LabelledEmbeddings(torch.tensor([[0.0], [4.0], [9.0]]), torch.tensor([0, 0, 1]))
    asked = LabelledEmbeddings(torch.tensor([[1.0], [5.0], [0.0], [0.0]]), torch.tensor([0, 0, 1, 2]))
    assert to_own_class(rows, asked).tolist() == [1.0, 1.0, 9.0, np.inf]


def test_where_there_are_more_images_some_are_drawn_without_replacement():
    rows = LabelledEmbeddings(torch.arange(50.0)[:, None], torch.arange(50))
    few = drawn(rows, 20, "train")
    assert len(set(few.y.tolist())) == 20 and torch.equal(few.z.flatten(), few.y.float())
    assert torch.equal(drawn(rows, 20, "train").y, few.y) and not torch.equal(drawn(rows, 20, "test").y, few.y)
    assert torch.equal(drawn(rows, 50, "train").y, rows.y)


def test_a_copy_that_was_put_there_is_found_in_both_spaces(measured):
    _, results, _ = measured
    for space in ("embeddings", "pixels"):
        found = nearness(results, row_of(results, "synthetic"), space)
        assert found.copies == 1
        assert np.flatnonzero(found.ratio == 0).tolist() == np.flatnonzero(found.relative == 0).tolist() == [COPIED]
        assert nearness(results, row_of(results, "centroid"), space).copies == 10
        assert nearness(results, row_of(results, "unseen"), space).copies == 0
    assert finding(results).startswith("1 of the 10 synthetic images equals a training image. The nearest lies 0.00 ")


def test_the_pictures_are_the_nearest_training_images_the_nearest_first(measured):
    subject, results, first = measured
    pairs = results.arrays[f"privacy/pairs/{row_of(results, 'synthetic').key}"]
    assert pairs.shape == (10, 3, 3, 32, 32)
    near = results.arrays[f"privacy/near embeddings/{row_of(results, 'synthetic').key}"][:, 0]
    order = np.argsort(near, kind="stable")
    assert order[0] == COPIED
    assert np.array_equal(pairs[:, 0], subject.context_sets["last"].images.numpy()[order])
    assert (pairs[0] == subject.images(first[[COPIED]]).numpy()).all()


def test_all_training_images_tell_who_was_trained_on_and_others_do_not(measured):
    _, results, _ = measured
    found = {}
    for pair in pairs_of_rows(results):
        distances = [-results.arrays[f"privacy/distance/{row.key}"] for row in pair]
        found[pair[0].context] = auroc(*distances)
        assert [len(side) for side in distances] == [150, 150]
    assert found["all"] == (1.0, 1.0, 1.0)
    for context in ("synthetic", "unseen"):
        assert found[context].low < 0.5 < found[context].high


def test_losses_are_those_behind_the_cross_entropy_of_the_row(measured):
    _, results, _ = measured
    for row in results.rows.values():
        losses = results.arrays[f"privacy/loss/{row.key}"]
        assert losses.mean() == pytest.approx(row.cross_entropy, abs=1e-6)


def test_nothing_is_measured_twice(measured, monkeypatch):
    subject, results, _ = measured
    before = dict(results.rows)
    monkeypatch.setattr("synthicl.studies.privacy.compute.nearest_pixels", None)
    privacy(subject, results, max_images=150)
    assert results.rows == before


def test_the_study_is_registered_and_shown(measured, capsys):
    subject, results, _ = measured
    study = STUDIES.get("privacy")
    publish(subject, results, study)
    assert capsys.readouterr().out.startswith("1 of the 10 synthetic images equals a training image")
    assert {path.name for path in (subject.folder / "figures").glob("*.png")} == {
        "privacy-nearest.png",
        "privacy-distances.png",
    }
    assert [table.title.split(",")[0] for table in tables(results)][:2] == ["The nearest of 899 training images"] * 2
    text = finding(results)
    assert "150 training images are told from 150 test images" in text
    assert "The backbone, which all share, was itself trained on these training digits" in text
    assert len(figures(results)) == 2


def test_the_table_has_the_numbers_behind_it(measured):
    _, results, _ = measured
    table = nearness_table(results, "embeddings")
    body = {line[0]: line[1:] for line in table.body}
    near = {
        name: results.arrays[f"privacy/near embeddings/{row_of(results, *where).key}"]
        for name, where in (("synthetic", ["synthetic"]), ("test images", ["unseen", "test"]))
    }
    usual = np.median(near["test images"][:, 0])
    relative = near["synthetic"][:, 0] / usual
    assert body["synthetic"][:4] == ["10", "1", f"{np.median(relative):.2f}", "0.00"]
    assert body["test images"][:3] == ["150", "0", "1.00"]
    assert body["nearest to class mean"][1:] == ["10", *["0.00"] * 4]


def test_an_evaluation_that_was_interrupted_is_shown_as_far_as_it_went(measured):
    _, results, _ = measured
    part = Results(dict(results.rows), results.predictions, results.labels, results.arrays)
    part.drop(part.select(context="unseen"))
    assert finding(part) == "" and len(tables(part)) == 1 and "nearest" in figures(part)
    part.drop(part.select(split="test"))
    assert finding(part) == "" and tables(part) == [] and figures(part) == {}


def test_a_dataset_alone_has_nothing_to_ask(tmp_path):
    subject = Subject(tmp_path, of_subject("digits", {})[1])
    with pytest.raises(UserError, match=r"there are no synthetic images\. Name the folder of a finished run\."):
        privacy(subject, Results())
    with pytest.raises(UserError, match=r"--max_images=1: must be at least 2\."):
        privacy(subject, Results(), max_images=1)
