import os

import numpy as np
import pytest

from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.datasets.folder import load


def per_class(split, classes):
    return np.bincount(split.labels, minlength=classes).tolist()


def names(split):
    return [f"{path.parent.name}/{path.name}" for path in split.images]


def test_flat_folder_is_split_60_20_20(image_folder):
    dataset = load(image_folder({"dog": 10, "cat": 5}))
    assert dataset.class_names == ["cat", "dog"]
    assert {name: per_class(split, 2) for name, split in dataset.splits.items()} == {
        "train": [3, 6],
        "val": [1, 2],
        "test": [1, 2],
    }
    every = [name for split in dataset.splits.values() for name in names(split)]
    assert len(set(every)) == 15
    for split in dataset.splits.values():
        assert [dataset.class_names[label] for label in split.labels] == [path.parent.name for path in split.images]


def test_train_val_test_are_taken_as_they_lie(image_folder):
    root = image_folder({f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("a", "b")})
    dataset = load(root)
    for split, images in dataset.splits.items():
        assert {path.parents[1].name for path in images.images} == {split}
        assert per_class(images, 2) == [2, 2]


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_one_held_out_folder_is_test_and_a_tenth_of_train_is_val(image_folder, held_out):
    dataset = load(image_folder({"train/a": 20, "train/b": 30, f"{held_out}/a": 1, f"{held_out}/b": 2}))
    assert {name: per_class(split, 2) for name, split in dataset.splits.items()} == {
        "train": [18, 27],
        "val": [2, 3],
        "test": [1, 2],
    }
    assert {path.parents[1].name for path in dataset.splits["test"].images} == {held_out}
    assert {path.parents[1].name for path in dataset.splits["val"].images} == {"train"}


def test_names_with_spaces_and_unicode(image_folder):
    data = ImageDataModule("folder", image_folder({"Löwe groß": 5, "猫 🐈": 5, "l'été": 5}))
    assert sorted(data.class_names) == sorted(["Löwe groß", "猫 🐈", "l'été"])
    assert data.num_classes == 3


def test_hidden_files_and_folders_are_left_out(image_folder, write_image):
    root = image_folder({"a": 5, "b": 5, ".git": 1})
    (root / "a" / ".DS_Store").write_text("x")
    write_image(root / "a" / "monday" / ".@__thumb" / "0.png")
    dataset = load(root)
    assert dataset.class_names == ["a", "b"]
    assert sum(len(split) for split in dataset.splits.values()) == 10


def test_images_in_subfolders_and_upper_case_suffixes_are_found(image_folder, write_image):
    root = image_folder({"a": 4, "b": 5})
    write_image(root / "a" / "monday" / "IMG_1.JPG")
    assert sum(per_class(split, 2)[0] for split in load(root).splits.values()) == 5


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"--data\.root=.*my images: found 0 class folders in .*at least two classes are needed"),
        ({"cat": 5}, r"--data\.root=.*my images: found 1 class folders in .*at least two classes are needed"),
        ({"cat": 5, "dog": 0}, r"--data\.root=.*no images in class folder .*/dog\. Add some, or remove it\."),
        ({"train/a": 1, "train/b": 1, "test/c": 1}, r"class folder .*test/c has no images in train"),
        ({"a": 3, "x" * 201: 3}, r"class name 'x+' cannot be a folder's name .*over 200 bytes"),
    ],
)
def test_message_for_what_cannot_be_used(image_folder, counts, message):
    with pytest.raises(UserError, match=message):
        load(image_folder(counts))


@pytest.mark.parametrize(("other", "name"), [("valid", "val"), ("Validation", "val"), ("testing", "test")])
def test_message_for_a_split_in_other_words(image_folder, other, name):
    root = image_folder({"train/a": 3, "train/b": 3, f"{other}/a": 3, f"{other}/b": 3})
    with pytest.raises(UserError, match=rf"{other} looks like a split and would not be one\. Call it {name}\."):
        load(root)


def test_message_for_a_stray_file(image_folder):
    root = image_folder({"a": 3, "b": 3})
    (root / "b" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"--data\.root: .*b/notes\.txt is not an image \(\.bmp, .*\)\. Remove it\."):
        load(root)


@pytest.mark.parametrize("what", ["file", "nothing"])
def test_message_for_a_root_that_is_no_folder(tmp_path, what):
    root = tmp_path / "images.zip"
    if what == "file":
        root.write_text("x")
    with pytest.raises(UserError, match=r"--data\.root=.*images\.zip: not a folder\. Name the folder that holds"):
        ImageDataModule("folder", root)


@pytest.mark.skipif(os.name != "posix", reason="names are Unicode there")
def test_message_for_a_name_that_is_not_utf8(image_folder):
    root = image_folder({"a": 3})
    try:
        os.mkdir(os.fsencode(root) + b"/caf\xe9")  # noqa: PTH102
    except OSError:
        pytest.skip("the file system refuses such names")
    with pytest.raises(UserError, match=r"class name 'caf\\udce9' cannot be a folder's name .*not UTF-8"):
        load(root)


@pytest.mark.parametrize(
    ("counts", "split", "absent"),
    [
        ({"a": 10, "lonely": 1}, "val", "'lonely'"),  # the one image is trained on, and none is left to hold out
        ({"train/a": 20, "train/b": 20, "test/a": 1, "test/b": 0}, "test", "'b'"),
        ({"train/a": 20, "train/b": 20, "test/a": 1}, "test", "'b'"),
        ({f"{s}/{c}": s != "val" for s in ("train", "val", "test") for c in "ab"}, "val", "'a', 'b'"),
    ],
)
def test_message_for_a_class_missing_from_a_split(image_folder, counts, split, absent):
    message = rf"--data\.root=.*: no {split} images of class {absent}\. Every class needs .* lay the splits out as"
    with pytest.raises(UserError, match=message):
        ImageDataModule("folder", image_folder(counts))


def test_class_of_one_image_is_enough_where_the_splits_are_given(image_folder):
    root = image_folder({f"{split}/{name}": 1 for split in ("train", "val", "test") for name in "ab"})
    data = ImageDataModule("folder", root)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [2, 2, 2]
