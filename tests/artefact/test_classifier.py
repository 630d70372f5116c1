import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import synthicl
from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.backbones import create_backbone
from synthicl.core.errors import UserError
from synthicl.data.datasets.digits import load
from synthicl.data.images import LabelledImages
from synthicl.embeddings.bank import embed_views
from synthicl.probes.tabicl import TabICLProbe
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.deployment import Deployment
from synthicl.tabicl.preprocessing import fit_preprocessing

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]  # not in alphabetical order
EXPECTED_FAILED = {
    "raw": {},
    "rotated2": {
        "check_fit2d_1sample": "one row has no direction that a reduction could be fitted on; the line says so",
        "check_fit2d_1feature": "one column has one direction, not two; the line says so",
    },
}


@pytest.fixture(scope="module")
def digits():
    """Images, embeddings and labels of some digits: a context of 3 rows per class, and 100 queries."""
    train, test = (load(None).splits[name] for name in ("train", "test"))
    rows = np.concatenate([np.flatnonzero(train.labels == label)[:3] for label in range(10)])
    parts = {"train": train, "context": train.take(rows), "query": test.take(np.arange(100))}
    backbone = create_backbone("mini")
    return {name: (part, embed_views(backbone, part, 32)[0], part.labels) for name, part in parts.items()}


@pytest.fixture(scope="module")
def context_set(digits):
    _, z, y = digits["context"]
    metadata = {
        "backbone": "mini",
        "backbone_weights": create_backbone("mini").fingerprint,
        "crop_size": 32,
        "tabicl_checkpoint": "mini",
    }
    preprocessing = fit_preprocessing("rotated16", digits["train"][1], 2)
    return ContextSet(z, torch.from_numpy(y), NAMES, preprocessing, metadata=metadata)


@pytest.fixture(scope="module")
def probabilities(digits, context_set):
    """What the probe of a run says of the queries, (100, 10), columns in the order of NAMES, its context kept.

    That a probe which computes the context again says the same up to rounding is tested in tests/tabicl/test_cached.py.
    """
    probe = TabICLProbe(Deployment(context_set.preprocessing, "mini", MINI), keeps_context=True)
    probe.fit(context_set.rows)
    return probe.predict_proba(digits["query"][1])


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [InContextClassifier(name, n_estimators=2) for name in EXPECTED_FAILED],
    expected_failed_checks=lambda estimator: EXPECTED_FAILED[estimator.preprocessing],
)
def test_scikit_learn_takes_it_for_an_estimator(estimator, check):
    check(estimator)


def test_fit_is_the_probe(digits, probabilities):
    _, z, y = digits["context"]
    preprocessing = fit_preprocessing("rotated16", digits["train"][1], 2)
    classifier = InContextClassifier(preprocessing).fit(z.numpy(), y)
    assert np.array_equal(classifier.predict_proba(digits["query"][1].numpy()), probabilities)
    assert classifier.n_features_in_ == z.shape[1]


def test_a_name_is_fitted_on_the_rows(digits):
    _, z, y = digits["context"]
    classifier = InContextClassifier("pca8", n_estimators=3).fit(z.numpy(), y)
    assert torch.equal(classifier.context_.preprocessing.projection, fit_preprocessing("pca8", z).projection)
    assert classifier.context_.preprocessing.n_estimators == 3
    assert InContextClassifier("post").fit(z.numpy(), y).context_.preprocessing.n_estimators == 32


def test_members_replace_those_of_a_ready_preprocessing(digits, context_set):
    _, z, y = digits["context"]
    classifier = InContextClassifier(context_set.preprocessing, n_estimators=1).fit(z.numpy(), y)
    assert classifier.context_.preprocessing.n_estimators == 1


def test_strings_are_labels(digits):
    _, z, y = digits["context"]
    _, queries, truth = digits["query"]
    classifier = InContextClassifier("rotated16", n_estimators=2).fit(z.numpy(), np.array(NAMES)[y])
    assert classifier.classes_.tolist() == sorted(NAMES)
    assert classifier.score(queries.numpy(), np.array(NAMES)[truth]) > 0.7


def test_more_than_ten_classes():
    centres = 5 * np.eye(12, dtype=np.float32)
    rows = np.repeat(centres, 3, 0) + 0.1 * np.random.default_rng(0).normal(size=(36, 12)).astype(np.float32)
    classifier = InContextClassifier(n_estimators=2).fit(rows, np.repeat(np.arange(12), 3))
    probabilities = classifier.predict_proba(centres)
    assert probabilities.shape == (12, 12)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_clone_and_cross_validation(digits, context_set):
    _, z, y = digits["context"]
    copy = clone(InContextClassifier(context_set.preprocessing, n_estimators=2))
    assert not hasattr(copy, "classes_")
    assert cross_val_score(copy, z.numpy(), y, cv=3).mean() > 0.6


def test_seeds(digits):
    _, z, y = digits["context"]
    queries = digits["query"][1].numpy()
    first, again = (
        InContextClassifier(n_estimators=2, random_state=np.random.RandomState(3)).fit(z.numpy(), y) for _ in range(2)
    )
    assert first.seed_ == again.seed_ != 42
    assert np.array_equal(first.predict_proba(queries), again.predict_proba(queries))
    other = InContextClassifier(n_estimators=2).fit(z.numpy(), y)
    assert other.seed_ == 42
    assert not np.array_equal(other.predict_proba(queries), first.predict_proba(queries))


@pytest.mark.parametrize("preprocessing", ["raw", "rotated12"])
@pytest.mark.parametrize("labels", [np.arange(10), np.array(NAMES), 100 - np.arange(10, dtype=np.uint8)])
def test_load_gives_what_was_saved(tmp_path, digits, preprocessing, labels):
    _, z, y = digits["context"]
    saved = InContextClassifier(preprocessing, n_estimators=2, random_state=7).fit(z.numpy(), labels[y])
    saved.save(tmp_path / "classifier")
    assert [path.name for path in (tmp_path / "classifier").iterdir()] == ["context.safetensors"]
    loaded = InContextClassifier.load(tmp_path / "classifier")
    assert loaded.classes_.tolist() == saved.classes_.tolist()
    queries = digits["query"][1].numpy()
    assert np.array_equal(loaded.predict_proba(queries), saved.predict_proba(queries))
    assert loaded.predict(queries).tolist() == saved.predict(queries).tolist()


def test_a_pickled_classifier_predicts_the_same(digits, context_set, probabilities):
    classifier = pickle.loads(pickle.dumps(InContextClassifier.from_context_set(context_set)))
    assert np.array_equal(
        classifier.predict_proba(digits["query"][1].numpy())[:, np.argsort(np.argsort(NAMES))], probabilities
    )


def test_a_context_set_gives_what_its_probe_gives(tmp_path, digits, context_set, probabilities):
    context_set.save(tmp_path / "run")
    _, queries, truth = digits["query"]
    for source in (context_set, tmp_path / "run", str(tmp_path / "run")):
        classifier = InContextClassifier.from_context_set(source)
        assert classifier.classes_.tolist() == sorted(NAMES)
        assert np.array_equal(classifier.predict_proba(queries.numpy()), probabilities[:, np.argsort(NAMES)])
        accuracy = (probabilities.argmax(1) == truth).mean()
        assert classifier.score(queries.numpy(), np.array(NAMES)[truth]) == accuracy > 0.8
    # scikit-learn warns (here: fails) where classes are not sorted
    assert log_loss(np.array(NAMES)[truth], classifier.predict_proba(queries.numpy()), labels=classifier.classes_) < 1
    classifier.save(tmp_path / "again")
    again = InContextClassifier.load(tmp_path / "again")
    images = [Image.fromarray(image) for image in digits["query"][0].images[:5]]
    assert np.array_equal(again.predict_proba_images(images), classifier.predict_proba_images(images))


def test_classes_without_rows_are_left_out(digits, context_set):
    rows = (context_set.labels > 0).nonzero().flatten()
    fewer = ContextSet(context_set.embeddings[rows], context_set.labels[rows], NAMES, context_set.preprocessing)
    classifier = InContextClassifier.from_context_set(fewer)
    assert classifier.classes_.tolist() == sorted(NAMES[1:])
    probe = TabICLProbe(Deployment(fewer.preprocessing, "mini", MINI))
    probe.fit(fewer.rows)
    queries = digits["query"][1]
    expected = np.array(NAMES[1:])[probe.predict_proba(queries).argmax(1)]
    assert np.array_equal(classifier.predict(queries.numpy()), expected)


def test_images_in_every_form(tmp_path, digits, context_set, probabilities):
    """Paths, Pillow images and a tensor of the same pixels; more than one batch of them."""
    images = digits["query"][0].images
    pillow = [Image.fromarray(image) for image in images]
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for image, path in zip(pillow, paths, strict=True):
        image.save(path)
    tensor = torch.from_numpy(np.stack(images))[:, None].expand(-1, 3, -1, -1)
    classifier = InContextClassifier.from_context_set(context_set)
    expected = np.array(NAMES)[probabilities.argmax(1)]
    for form in (paths, [str(path) for path in paths], pillow, tensor):
        result = classifier.predict_proba_images(form)
        np.testing.assert_allclose(result, probabilities[:, np.argsort(NAMES)], atol=1e-5)
        assert np.array_equal(classifier.predict_images(form), expected)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (50, 40), (200, 0, 0, 51)),
        Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30),
        Image.linear_gradient("L").convert("CMYK"),
        Image.linear_gradient("L").convert("P"),
    ],
    ids=lambda image: image.mode,
)
def test_a_pillow_image_is_treated_as_its_file_is(tmp_path, context_set, image):
    path = tmp_path / "x.tif"
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: rotate by 90 degrees
    image.getexif().update(exif)
    image.save(path, exif=exif, compression="tiff_lzw")  # Pillow 13 garbles some uncompressed ones that are rotated
    embedder = InContextClassifier.from_context_set(context_set).image_embedder()
    in_memory, on_disk = embedder.squares([image, path])
    assert torch.equal(in_memory, on_disk)


def test_images_are_resized_and_cropped_as_elsewhere(tmp_path, context_set, write_image):
    paths = [write_image(tmp_path / "wide.png", size=(90, 40)), write_image(tmp_path / "high.png", size=(20, 50))]
    expected = embed_views(create_backbone("mini"), LabelledImages(paths, np.zeros(2)), 32)[0]
    assert torch.equal(InContextClassifier.from_context_set(context_set).image_embedder()(paths), expected)


def test_it_is_exported():
    assert synthicl.InContextClassifier is InContextClassifier


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preprocessing": "pca"}, r"^preprocessing=pca: unknown\. Choose"),
        (
            {"preprocessing": "pca30"},
            r"^preprocessing=pca30: the 30 training embeddings have only 29 directions\. Choose raw or pca29, or add",
        ),
        ({"checkpoint": "v9"}, r"^checkpoint=v9: unknown\. Choose one of: mini"),
        ({"model_path": "gone.ckpt"}, r"gone\.ckpt.*Supply it with model_path=PATH"),
    ],
)
def test_messages_of_fit(digits, settings, message):
    _, z, y = digits["context"]
    with pytest.raises(UserError, match=message):
        InContextClassifier(**settings).fit(z.numpy(), y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([True, False]), r"Labels of type bool cannot be saved\. Use strings or integers as labels\."),
        (np.array([1.0, 2.0]), r"Labels of type float64 cannot be saved"),
        (np.array(["a/b", "c"]), r"class name 'a/b' cannot be a folder's name"),
    ],
)
def test_messages_of_save(tmp_path, labels, message):
    classifier = InContextClassifier(n_estimators=1).fit(np.eye(6), labels[[0, 0, 0, 1, 1, 1]])
    with pytest.raises(UserError, match=message):
        classifier.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_ones_own_must_be_supplied_again(tmp_path, digits):
    _, z, y = digits["context"]
    own = tmp_path / "own.ckpt"
    own.write_bytes(MINI.read_bytes())
    saved = InContextClassifier(model_path=own, n_estimators=1).fit(z.numpy(), y)
    saved.save(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint file own\.ckpt\. Supply it with model_path=PATH\."):
        InContextClassifier.load(tmp_path)
    queries = digits["query"][1].numpy()
    loaded = InContextClassifier.load(tmp_path, model_path=own)
    assert np.array_equal(loaded.predict_proba(queries), saved.predict_proba(queries))


def test_messages_about_images(tmp_path, digits, context_set):
    classifier = InContextClassifier.from_context_set(context_set)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"x\.png: not a readable image"):
        classifier.predict_images([tmp_path / "x.png"])
    with pytest.raises(UserError, match=r"There are no images to classify"):
        classifier.predict_images([])
    with pytest.raises(
        UserError, match=r"must be \(N, 3, H, W\), uint8; each of these is \(3, 32, 32\), torch\.float32"
    ):
        classifier.predict_images(torch.zeros(2, 3, 32, 32))
    _, z, y = digits["context"]
    with pytest.raises(UserError, match=r"does not say which backbone its vectors come from \(no backbone, backbone_w"):
        classifier.fit(z.numpy(), y).predict_images([tmp_path / "x.png"])


def test_other_weights_are_refused(context_set):
    metadata = context_set.metadata | {"backbone_weights": "0123456789abcdef"}
    other = ContextSet(context_set.embeddings, context_set.labels, NAMES, context_set.preprocessing, metadata=metadata)
    message = r"backbone_weights: these weights of mini \(\w{16}\) are not those .* \(0123456789abcdef\)\. Supply that"
    with pytest.raises(UserError, match=message):
        InContextClassifier.from_context_set(other).image_embedder()
    with pytest.raises(UserError, match=r"gone\.pth.*Supply it with backbone_weights=PATH"):
        InContextClassifier.from_context_set(context_set, backbone_weights="gone.pth").image_embedder()
