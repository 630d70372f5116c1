"""What is shown of an image, without a page: the numbers of `predict`, attention by brute force, and the HTML."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from synthicl.artefact.answer import Answerer
from synthicl.artefact.card import card
from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.backbones import create_backbone
from synthicl.core.errors import UserError
from synthicl.data.datasets.digits import load
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.differentiable import DifferentiableTabICL, members_of
from synthicl.tabicl.preprocessing import fit_preprocessing


@pytest.fixture(scope="module")
def answerer(run):
    return Answerer(run)


@pytest.fixture(scope="module")
def digit():
    """A zero, which is easy."""
    test = load(None).splits["test"]
    return Image.fromarray(test.images[test.labels.tolist().index(0)])


@pytest.fixture(scope="module")
def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_numbers_are_those_of_the_classifier(answerer, run, digit, noise):
    classifier = InContextClassifier.from_context_set(run)
    calibration = classifier.context_.calibration
    for image, novel in ((digit, False), (noise, True)):
        answer = answerer(image)
        expected = classifier.predict_proba_images([image])
        np.testing.assert_allclose(answer.probabilities, expected[0], atol=1e-6)
        assert answer.label == classifier.predict_images([image])[0]
        assert answer.names == classifier.classes_.tolist()
        np.testing.assert_array_equal(answer.chosen, calibration.sets(expected, 0.95)[0])
        assert answer.novelty == pytest.approx(calibration.novelty(classifier.image_embedder()([image]))[0])
        assert answer.novel is novel
    assert answerer(digit).label == "0"


def test_attention_by_brute_force(answerer, run, digit):
    context, tabicl = ContextSet.load(run), DifferentiableTabICL(MINI)
    columns = context.preprocessing(context.embeddings)
    query = context.preprocessing(answerer.embedder([digit]))
    members = members_of(
        TabICLProbe(Deployment(context.preprocessing, "mini", MINI))
        .classifier()
        .fit(columns.numpy(), context.labels.numpy())
    )
    each = [tabicl.attention(columns[None], context.labels, query[None], member)[0, :, 0] for member in members]
    found = answerer(digit).attention
    np.testing.assert_allclose(found, torch.stack(each).mean((0, 1)), rtol=1e-4)
    assert found.shape == (20,)
    assert found.sum() == pytest.approx(1)


def shown(page):
    """The words of some HTML, on one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_page_shows_what_is_known(answerer, digit):
    answer = answerer(digit)
    page = answerer.html(answer)
    text = shown(page)
    assert re.search(rf"^{answer.label} [\d.> ]+ % Calibrated on val", text)
    assert "Set: {" + answer.label + "} for 95 % of images like val" in text
    assert f"No warning. Its novelty is {answer.novelty:.3f}; of val, 95 % are not above" in text
    assert "even would be 5.0 % each" in text
    own = [label == int(answer.label) for label in answerer.context.labels.tolist()]
    assert f"Framed: class {answer.label}, {100 * answer.attention[own].sum():.1f} % together" in text
    assert "Attention is no explanation" in text
    assert page.count('<li class="own">') == 2
    assert page.count("<img") == 1 + 20
    shares = [float(share) for share in re.findall(r'number">([\d.]+) %</span>\s*<span class="track"', page)]
    np.testing.assert_allclose(shares, sorted(100 * answer.attention, reverse=True), atol=0.051)
    assert "temperature" in text


def test_names_are_escaped(answerer, digit):
    page = answerer.html(answerer(digit))
    assert "<b>" not in page
    assert "&lt;b&gt;nine&amp;" in page


def test_what_is_unlike_the_training_images_is_warned_of(answerer, noise):
    text = shown(answerer.html(answerer(noise)))
    assert text.startswith("Unlike the training images. Its novelty is")
    assert "No warning" not in text


def test_a_set_without_calibration_says_why_there_is_no_warning(run, tmp_path, noise):
    replace(ContextSet.load(run), calibration=None).save(tmp_path)
    answerer = Answerer(tmp_path)
    answer = answerer(noise)
    assert (answer.chosen, answer.novelty, answer.novel) == (None, None, False)
    text = shown(answerer.html(answer))
    assert "No set and no warning can be given: this context set keeps nothing of val" in text
    assert "Not calibrated." in text


def test_a_val_too_small_says_so_and_promises_nothing(run, tmp_path, digit, noise):
    context = ContextSet.load(run)
    kept = context.calibration
    few = replace(kept, nonconformity=kept.nonconformity[:5], novelties=kept.novelties[:5])
    replace(context, calibration=few).save(tmp_path)
    answerer = Answerer(tmp_path)
    for image in (digit, noise):
        text = shown(answerer.html(answerer(image)))
        assert "No set. Val has too few images, 5, for one that holds the true class for 95 %" in text
        assert "No warning can be given. Val has too few images, 5, to say what 95 % of its kind stay below." in text
        for promise in ("inf", "No warning.", "Set:", "of images like val, such a set"):
            assert promise not in text.replace("information", "")
    enough = Answerer(tmp_path, coverage=0.8, reject=0.8)
    text = shown(enough.html(enough(digit)))
    assert "Set: {0}" in text and "No set." not in text and "can be given" not in text


def test_a_val_without_an_error_calibrates_nothing_and_that_is_said(run, tmp_path, digit):
    context = ContextSet.load(run)
    replace(context, calibration=replace(context.calibration, temperature=1.0)).save(tmp_path)
    answerer = Answerer(tmp_path)
    text = shown(answerer.html(answerer(digit)))
    assert "Not calibrated: there is no error on val." in text and "Calibrated on val." not in text
    assert "TabICL gives them: it makes no error on the 359 images of val, so that nothing could be calibrated" in text
    nothing = "1.00 (there is no error on val, so that nothing could be calibrated), and of each image"
    assert nothing in card(answerer.context, "") and nothing not in card(context, "")


def test_a_set_without_images_shows_attention_by_name(run, tmp_path, digit):
    replace(ContextSet.load(run), images=None).save(tmp_path)
    answerer = Answerer(tmp_path)
    page = answerer.html(answerer(digit))
    assert page.count("<img") == 1
    assert page.count('<span class="track">') == 20


def test_many_rows_and_classes_are_summed(answerer, digit, monkeypatch):
    answer = answerer(digit)
    monkeypatch.setattr("synthicl.artefact.answer.ROWS", 3)
    monkeypatch.setattr("synthicl.artefact.answer.CLASSES", 4)
    page = answerer.html(answer)
    text = shown(page)
    assert page.count('<span class="track">') == 3
    rest = 100 * np.sort(answer.attention)[:-3].sum()
    assert f"The other 17 together: {rest:.1f} %" in text
    assert "The other 6 classes together:" in text


def test_no_attention_of_more_classes_than_tabicl_has_outputs(tmp_path):
    backbone, random = create_backbone("mini"), np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8))
    with torch.no_grad():
        z = backbone(pixels / 255)
    metadata = {"backbone": "mini", "backbone_weights": backbone.fingerprint, "crop_size": 32}
    names = [f"class {label:02d}" for label in range(12)]
    ContextSet(z, torch.arange(12), names, fit_preprocessing("rotated4", z, 1), pixels, metadata).save(tmp_path)
    answerer = Answerer(tmp_path)
    answer = answerer(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()))
    assert answer.attention is None
    assert "Not known here: of more classes than TabICL has outputs" in shown(answerer.html(answer))


def test_the_title_names_the_run(run, answerer, tmp_path):
    assert answerer.title == "digits · version_3"
    latest = tmp_path / "latest"
    latest.symlink_to(run, target_is_directory=True)
    assert Answerer(latest).title == "digits · version_3"
    shutil.copytree(run, tmp_path / "version_9" / "best_on_val")
    assert Answerer(tmp_path / "version_9" / "best_on_val").title == "digits · version_9/best_on_val"


def test_what_cannot_be_asked_is_said(answerer, run, tmp_path):
    (tmp_path / "not.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"not\.png: not a readable image"):
        answerer(tmp_path / "not.png")
    with pytest.raises(UserError, match="no context set there"):
        Answerer(tmp_path / "gone")
    with pytest.raises(UserError, match=r"--reject=2: must lie between 0 and 1"):
        Answerer(run, reject=2)
