import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import pil_to_tensor

from synthicl.artefact.card import card
from synthicl.artefact.context_set import ContextSet
from synthicl.core.errors import UserError
from synthicl.data.transforms import to_uint8
from synthicl.probes.calibrated import Calibration
from synthicl.probes.novelty import fit_novelty
from synthicl.tabicl.preprocessing import Preprocessing, fit_preprocessing

NAMES = ["zebra", "English springer", "Löwe 猫"]  # not in alphabetical order


def context_set(names=NAMES, preprocessing="rotated3", images=True):
    torch.manual_seed(0)
    n = 2 * len(names)
    return ContextSet(
        embeddings=torch.randn(n, 5),
        labels=torch.arange(len(names)).repeat(2),
        class_names=list(names),
        preprocessing=fit_preprocessing(preprocessing, torch.randn(30, 5), 4),
        images=torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8) if images else None,
        metadata={"seed": 3, "dataset": "Größe", "versions": {"torch": "2"}, "nothing": None},
    )


def rewrite(folder, tensors=None, **header):
    """Replace parts of a saved set."""
    path = folder / "context.safetensors"
    with safe_open(path, "pt") as file:
        old = file.metadata()
    kept = {name: tensor for name, tensor in (load_file(path) | (tensors or {})).items() if tensor is not None}
    save_file(kept, path, {name: value for name, value in (old | header).items() if value is not None})


@pytest.mark.parametrize("preprocessing", ["raw", "post", "pca2", "rotated3"])
@pytest.mark.parametrize("images", [True, False])
def test_load_gives_what_was_saved(tmp_path, preprocessing, images):
    saved = context_set(preprocessing=preprocessing, images=images)
    saved.save(tmp_path / "run")
    loaded = ContextSet.load(str(tmp_path / "run"))
    assert torch.equal(loaded.embeddings, saved.embeddings)
    assert torch.equal(loaded.labels, saved.labels)
    assert (loaded.class_names, loaded.metadata) == (saved.class_names, saved.metadata)
    assert (loaded.preprocessing.name, loaded.preprocessing.n_estimators) == (preprocessing, 4)
    z = torch.randn(7, 5)
    assert torch.equal(loaded.preprocessing(z), saved.preprocessing(z))
    if images:
        assert torch.equal(loaded.images, saved.images)
    else:
        assert loaded.images is None


def test_soft_labels_come_back_and_are_among_the_rows(tmp_path):
    saved = context_set()
    assert saved.rows.soft_labels is None
    saved.soft_labels = torch.rand(6, 3).softmax(1)
    saved.save(tmp_path)
    rows = ContextSet.load(tmp_path).rows
    assert torch.equal(rows.soft_labels, saved.soft_labels)
    assert torch.equal(rows.z, saved.embeddings)
    assert torch.equal(rows.y, saved.labels)


def calibration():
    """What 9 images of val would say of `context_set`."""
    generator = torch.Generator().manual_seed(1)
    novelty = fit_novelty(torch.randn(30, 5, generator=generator))
    nonconformity, novelties = (torch.rand(9, generator=generator).sort().values for _ in range(2))
    return Calibration(0.75, nonconformity, novelty, novelties)


def test_what_val_says_comes_back_and_a_set_without_it_is_read(tmp_path):
    saved, kept = context_set(), calibration()
    saved.save(tmp_path / "without")
    assert ContextSet.load(tmp_path / "without").calibration is None
    saved.calibration = kept
    saved.save(tmp_path)
    found = ContextSet.load(tmp_path).calibration
    assert found.temperature == 0.75 and found.images == 9
    assert torch.equal(found.nonconformity, kept.nonconformity) and torch.equal(found.novelties, kept.novelties)
    z = torch.randn(7, 5)
    assert (found.novelty(z) == kept.novelty(z)).all()


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"novelty.mean": None}, "novelty.mean is missing, which belongs to calibration.nonconformity"),
        ({"calibration.temperature": torch.tensor([0.0])}, "calibration.temperature is 0"),
        ({"calibration.temperature": torch.tensor([21.0])}, "calibration.temperature goes from 21 to 21"),
        ({"calibration.temperature": torch.ones(2)}, r"calibration.temperature has shape \(2,\), not \(1\)"),
        ({"calibration.nonconformity": torch.full((9,), 1.5)}, "calibration.nonconformity goes from 1.5 to 1.5"),
        ({"calibration.novelties": torch.full((9,), -0.5)}, "calibration.novelties goes from -0.5 to -0.5"),
        ({"calibration.novelties": torch.rand(8)}, r"calibration.novelties has shape \(8,\), not \(v=9\)"),
        ({"novelty.mean": torch.rand(4)}, r"novelty.mean has shape \(4,\), not \(D=5\)"),
        ({"novelty.mean": torch.full((5,), torch.nan)}, "novelty.mean holds NaN or infinite numbers"),
    ],
)
def test_message_for_a_calibration_that_is_none(tmp_path, tensors, reason):
    saved = context_set()
    saved.calibration = calibration()
    saved.save(tmp_path)
    rewrite(tmp_path, tensors)
    with pytest.raises(UserError, match=rf"not a context set, or damaged \({reason}\)\. Run the distillation again"):
        ContextSet.load(tmp_path)


def test_the_card_says_how_much_it_keeps_of_val():
    saved = context_set()
    assert "val images" not in card(saved, "")
    saved.calibration = calibration()
    text = card(saved, "")
    assert "19 numbers about 9 val images: the temperature of TabICL's probabilities, 0.75" in text
    assert f"{saved.calibration.novelty.numbers} numbers fitted on the training embeddings" in text


def test_saving_again_replaces(tmp_path):
    context_set().save(tmp_path)
    other = context_set()
    other.images = 255 - other.images
    other.save(tmp_path)
    assert torch.equal(ContextSet.load(tmp_path).images, other.images)
    png = decode_image(str(tmp_path / "images" / "zebra" / "001.png"), ImageReadMode.UNCHANGED)
    assert torch.equal(png, other.images[3])


def test_images_are_a_folder_that_torchvision_reads(tmp_path):
    context = context_set()
    context.save(tmp_path)
    dataset = ImageFolder(tmp_path / "images")
    assert dataset.classes == sorted(NAMES)
    number = dict.fromkeys(NAMES, 0)
    for image, label in dataset:
        name = dataset.classes[label]
        rows = (context.labels == NAMES.index(name)).nonzero().flatten()
        assert torch.equal(pil_to_tensor(image), context.images[rows[number[name]]])
        number[name] += 1
    assert set(number.values()) == {2}


def test_folder_holds_tensors_and_pictures_only(tmp_path):
    context_set().save(tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    pictures = {f"images/{name}/{i:03d}.png" for name in NAMES for i in range(2)}
    assert files == {"context.safetensors", "grid.png"} | pictures
    for path in tmp_path.rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_vectors_without_images_have_no_pictures(tmp_path):
    context = context_set(images=False)
    context.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["context.safetensors"]


def test_grid_shows_every_image(tmp_path):
    """Flat images of distinct colours: each colour covers an area of the picture, beside titles on white."""
    context = context_set()
    colours = torch.randint(20, 236, (len(context.labels), 3), generator=torch.Generator().manual_seed(0))
    context.images = colours.to(torch.uint8)[:, :, None, None].repeat(1, 1, 8, 8)
    context.save(tmp_path)
    grid = decode_image(str(tmp_path / "grid.png"), ImageReadMode.UNCHANGED)
    for colour in colours:
        assert (grid == colour[:, None, None]).all(0).sum() > 5000


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "x" * 201])
def test_names_that_would_leave_the_folder_are_refused(tmp_path, name):
    message = r"class name '.*' cannot be a folder's name"
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        context_set(["cat", name]).save(folder)
    assert not folder.exists()
    context_set(["cat", "dog"]).save(folder)
    rewrite(folder, class_names=json.dumps(["cat", name]))
    with pytest.raises(UserError, match=r"not a context set, or damaged \(class name '.*"):
        ContextSet.load(folder)


def test_message_for_a_folder_without_a_set(tmp_path):
    with pytest.raises(UserError, match=r"no context set there \(looked for context\.safetensors\)\. Name the folder"):
        ContextSet.load(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_message_for_a_damaged_file(tmp_path, size):
    context_set().save(tmp_path)
    path = tmp_path / "context.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"context\.safetensors: not a context set, or damaged \(.*\)\. Run the dist"):
        ContextSet.load(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ({"embeddings": None}, {}),
        ({"embeddings": torch.tensor(1.0)}, {}),
        ({"labels": torch.zeros(6, 2, dtype=torch.int64)}, {}),
        ({}, {"class_names": None}),
        ({}, {"class_names": "["}),
        ({}, {"preprocessing": "{}"}),
        ({}, {"metadata": None}),
    ],
)
def test_message_for_a_file_that_lacks_something(tmp_path, tensors, header):
    context_set().save(tmp_path)
    rewrite(tmp_path, tensors, **header)
    with pytest.raises(UserError, match=r"context\.safetensors: not a context set, or damaged"):
        ContextSet.load(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"embeddings": torch.zeros(5, 5)}, r"labels has shape \(6,\), not \(n=5\)"),
        (
            {"images": torch.zeros(7, 3, 8, 8, dtype=torch.uint8)},
            r"images has shape \(7, 3, 8, 8\), not \(n=6, 3, S, S\)",
        ),
        ({"labels": torch.tensor([0, 1, 2, 3, 0, 1])}, "labels go from 0 to 3, and there are 3 classes"),
        ({"labels": torch.tensor([0, 1, 2, -1, 0, 1])}, "labels go from -1 to 2, and there are 3 classes"),
        ({"labels": torch.arange(3)}, r"labels has shape \(3,\), not \(n=6\)"),
    ],
)
def test_message_for_parts_that_do_not_belong_together(tmp_path, tensors, reason):
    context_set().save(tmp_path)
    rewrite(tmp_path, tensors)
    with pytest.raises(UserError, match=rf"not a context set, or damaged \({reason}\)\. Run the distillation again"):
        ContextSet.load(tmp_path)


def test_failure_leaves_the_old_set(tmp_path):
    context_set().save(tmp_path)
    (tmp_path / "images" / "zebra" / "000.png").unlink()
    (tmp_path / "images" / "zebra" / "000.png").mkdir()
    with pytest.raises(UserError, match=r"zebra/000\.png: cannot be written"):
        context_set().save(tmp_path)
    ContextSet.load(tmp_path)


def test_to_uint8_rounds_as_a_png_holds_it():
    assert to_uint8(torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 2.0])).tolist() == [0, 0, 0, 1, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every / 255), every)


def test_preprocessing_without_statistics_is_kept_as_one(tmp_path):
    context = context_set(images=False)
    context.preprocessing = Preprocessing("raw", 8)
    context.save(tmp_path)
    assert ContextSet.load(tmp_path).preprocessing == Preprocessing("raw", 8)
    assert set(load_file(tmp_path / "context.safetensors")) == {"embeddings", "labels"}


def test_a_set_is_loaded_by_its_id_on_the_hub_and_checked_like_any_other(tmp_path, monkeypatch):
    saved = context_set(images=False)
    saved.save(tmp_path / "cache")
    fetched = []
    monkeypatch.setattr("synthicl.core.hub.fetched", lambda repo: fetched.append(repo) or tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(ContextSet.load("user/name").embeddings, saved.embeddings)
    assert fetched == ["user/name"]
    rewrite(tmp_path / "cache", {"embeddings": torch.ones(6, 5)})
    with pytest.raises(UserError, match="the checksum differs"):
        ContextSet.load("user/name")
    context_set().save(tmp_path / "user" / "name")  # what lies here wins
    assert ContextSet.load("user/name").images is not None
    assert len(fetched) == 2
