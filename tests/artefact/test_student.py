"""`synthicl export RUN --student`: what a student learns from, what its file is, and what is refused."""

import json
import re
from importlib import util

import numpy as np
import pytest
import torch
from PIL import Image

from synthicl.artefact import student as module
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.onnx_file import open_run
from synthicl.artefact.student import (
    Lesson,
    Student,
    StudentSettings,
    Teacher,
    Views,
    flip_of,
    make_views,
    teacher_of,
    train_student,
)
from synthicl.backbones import create_backbone
from synthicl.cli.main import main
from synthicl.core.errors import UserError
from synthicl.data.images import LabelledImages
from synthicl.embeddings.embedder import embed_squares
from synthicl.tabicl.preprocessing import Preprocessing

onnxruntime = pytest.importorskip("onnxruntime")
NAMES = ["two", "one", "three"]
FEW = ["--student_views=64", "--student_steps=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A context set of three images of noise, and no dataset anywhere."""
    backbone = create_backbone("mini")
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    metadata = {"backbone": "mini", "backbone_weights": backbone.fingerprint, "crop_size": 32}
    metadata |= {"tabicl_checkpoint": "mini", "dataset": "digits"}
    z = embed_squares(backbone, images)
    context = ContextSet(z, torch.arange(3), NAMES, Preprocessing("raw", 2), images, metadata)
    folder = tmp_path_factory.mktemp("run")
    context.save(folder)
    return folder


def refused(capsys, *args):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(list(map(str, args))) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line]
    return line


def test_a_view_is_a_blend_of_its_sources_in_its_share():
    black_and_white = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    black_and_white[1] = 255
    views = make_views(black_and_white, 400, 24, 0.0, "test")
    assert views.squares.shape == (400, 3, 24, 24)
    assert views.squares.dtype == torch.uint8
    assert 0 <= views.share.min() < 0.3 < views.share.max() == 1
    brightness = views.squares.float().mean((1, 2, 3))
    first, second = views.sources.T
    assert brightness[first + second == 0].max() < 15  # black and black; there is some noise
    assert brightness[(first == 1) & (views.share == 1)].min() > 40  # white in the dimmest light
    mixed = (first == 1) & (second == 0)
    assert np.corrcoef(brightness[mixed], views.share[mixed])[0, 1] > 0.8


def test_views_are_a_function_of_their_key():
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    one, again, other = (make_views(images, 8, 16, 0.5, "test", seed) for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    assert not torch.equal(one.squares, other.squares)


@pytest.mark.parametrize("size", [4, 32, 128, 224])
def test_a_student_of_any_size_gives_probabilities(size):
    student = Student(3, size).eval()
    squares = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        found = student(squares)
        torch.testing.assert_close(student(squares[:1]), found[:1])  # nothing is shared by a batch
        assert max(student.shrunk(squares).shape[2:]) < 2 * module.SIDE
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert 40_000 < sum(tensor.numel() for tensor in student.parameters()) < 500_000


def test_a_student_learns_what_its_teacher_says():
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def teacher(views: Views):
        """How much brighter the upper half is."""
        upper, lower = (part.float().mean((1, 2, 3)) for part in views.squares.chunk(2, 2))
        share = torch.sigmoid((upper - lower) / 4)
        return Lesson(torch.stack([share, 1 - share], 1))

    settings = StudentSettings(views=512, steps=80)
    student, again = (train_student(images, teacher, 2, 16, 0.0, settings) for _ in range(2))
    fresh = make_views(images, 500, 16, 0.0, "fresh")
    found = student(fresh.squares)
    said = teacher(fresh).probabilities

    def agreement(student):
        return (student(fresh.squares).argmax(1) == said.argmax(1)).float().mean()

    assert agreement(student) > 0.85
    torch.testing.assert_close(again(fresh.squares), found, rtol=0, atol=0)  # a seed fixes all
    other = train_student(images, teacher, 2, 16, 0.0, StudentSettings(views=64, steps=1, seed=1))
    assert not torch.equal(other(fresh.squares), found)


def test_a_student_learns_its_teachers_embeddings_beside_the_probabilities(monkeypatch):
    """With no weight the embeddings change nothing; what they are worth stands in docs/student.md."""
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def brighter(views: Views):
        upper, lower = (part.float().mean((1, 2, 3)) for part in views.squares.chunk(2, 2))
        return (upper - lower)[:, None]

    def teacher(views: Views):
        return Lesson(torch.full((len(views.squares), 2), 0.5), brighter(views).repeat(1, 8))

    def trained(of: Teacher):
        return train_student(images, of, 2, 16, 0.0, StudentSettings(views=128, steps=3))

    def equal(one, other) -> bool:
        return all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))

    hinted, blind = trained(teacher), trained(lambda views: Lesson(teacher(views).probabilities))
    assert not equal(hinted, blind)
    monkeypatch.setattr(module, "HINT", 0.0)
    assert equal(trained(teacher), blind)


def test_no_real_image_reaches_the_student_and_the_file_says_what_it_is(tmp_path, run, capsys, monkeypatch):
    def no_dataset(*_args, **_kwargs):
        raise AssertionError("an image was read that is not in the context set")

    monkeypatch.setattr(LabelledImages, "__init__", no_dataset)  # what every split of a dataset is
    monkeypatch.setattr(Image, "open", no_dataset)
    path = tmp_path / "small.onnx"
    assert main(["export", str(run), f"--student={path}", *FEW]) == 0
    assert re.search(r"3 classes, 32 px, 0\.\d MB: .*small\.onnx", capsys.readouterr().out)
    assert [other.name for other in tmp_path.iterdir()] == ["small.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == sorted(NAMES)
    expected = {"crop_size": "32", "backbone": "mini", "preprocessing": "raw", "members": "2"}
    assert {name: about[name] for name in expected} == expected
    made = json.loads(about["student"])
    assert (made["views"], made["steps"], made["seed"]) == (64, 2, 0)
    assert path.stat().st_size < 4.5 * made["parameters"] + 50_000
    squares = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    [found] = session.run(["probabilities"], {"images": squares.numpy()})
    opened = open_run(run, "--student", path.with_name("x"), path)
    same = train_student(opened.context_set.images, teacher_of(opened), 3, 32, 0.0, StudentSettings(64, 2))
    np.testing.assert_allclose(found, same(squares).numpy(), atol=1e-5)


def test_the_teacher_is_the_classifier_in_the_order_of_its_classes(tmp_path, run):
    opened = open_run(run, "--student", tmp_path / "x", tmp_path / "y")
    views = make_views(opened.context_set.images, 4, 32, 0.0, "test")
    lesson = teacher_of(opened)(views)
    found = lesson.probabilities.numpy()
    np.testing.assert_allclose(found, opened.classifier.predict_proba_images(views.squares), atol=1e-5)
    clean = Views(opened.context_set.images, views.sources, views.share)
    said = teacher_of(opened)(clean).probabilities.argmax(1).tolist()
    assert [sorted(NAMES)[label] for label in said] == NAMES


def test_views_are_mirrored_where_those_of_the_run_were(tmp_path):
    assert flip_of(tmp_path) == 0  # a context set alone
    config = "data: {name: digits}\nbackbone: {name: mini}\nmodel: {views: {augmentation: {flip: 0.25}}}\n"
    (tmp_path / "config.yaml").write_text(config)
    assert flip_of(tmp_path) == flip_of(tmp_path / "best_on_val") == 0.25
    (tmp_path / "config.yaml").write_text("data: {name: digits}\nbackbone: {name: mini}\n")
    assert flip_of(tmp_path) == 0.5  # the default of a run
    (tmp_path / "config.yaml").write_text(config.replace("flip: 0.25", "nope: 1"))
    with pytest.raises(UserError, match=r"model\.views\.augmentation.*nope"):
        flip_of(tmp_path)


def test_what_is_not_written(tmp_path, run, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    context = ContextSet.load(run)
    context.images = None
    context.save(tmp_path / "vectors")
    line = refused(capsys, "export", tmp_path / "vectors", "--student")
    assert re.search(r"--student: the context set in .*vectors has no images, only vectors", line)
    for flag, said in (("views=63", "64 and 1000000"), ("steps=0", "1 and 10000000"), ("seed=-1", "0 and ")):
        assert re.match(rf"error: --student_{flag}: must lie between {said}", refused(
            capsys, "export", run, "--student", f"--student_{flag}"
        ))  # fmt: skip
    found = util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr("synthicl.core.assets.find_spec", lambda name: None if name == "onnx" else found(name))
        assert "--student: needs packages that are not installed (onnx)" in refused(capsys, "export", run, "--student")
    with monkeypatch.context() as patch:
        patch.setattr(module, "to_onnx", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["export", str(run), "--student", *FEW]) == 130
        assert capsys.readouterr().err == "\nInterrupted.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_a_context_set_on_the_hub_is_exported_by_its_id(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("synthicl.core.hub.fetched", lambda repo: asked.append(repo) or run)
    assert main(["export", "me/three-things", "--student", *FEW]) == 0
    assert asked == ["me/three-things"]
    onnxruntime.InferenceSession("student.onnx")
