import csv
import io
import json

import numpy as np
import pytest

from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.datasets.folder import load

LABELS = {f"{index:02d}.png": ("cat", "dog")[index % 2] for index in range(20)}


def write(path, rows, columns=("file_name", "label")):
    """Write rows of cells as CSV or JSON lines, by the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        text = io.StringIO()
        csv.writer(text).writerows([columns, *rows])
        path.write_text(text.getvalue(), encoding="utf-8")
    else:
        lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def make(tmp_path):
    """A function that writes images, by their paths; nothing opens them."""

    def images(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return images


@pytest.fixture(params=["metadata.csv", "metadata.jsonl"])
def file(request):
    return request.param


def labels(dataset, split, root):
    found = dataset.splits[split]
    return {
        str(path.relative_to(root)): dataset.class_names[label]
        for path, label in zip(found.images, found.labels, strict=True)
    }


def test_one_file_is_split_60_20_20(make, file):
    root = make(*LABELS)
    write(root / file, LABELS.items())
    dataset = load(root)
    parts = {split: labels(dataset, split, root) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 12, "val": 4, "test": 4}
    assert parts["train"] | parts["val"] | parts["test"] == LABELS
    assert labels(load(root, 1), "val", root) != parts["val"]


def test_subfolders_are_only_places(make, file):
    root = make("dog/1.png", "dog/2.png", "dog/3.png", "4.png", "5.png", "deep/er/6.png")
    rows = {"dog/1.png": "b", "dog/2.png": "a", "dog/3.png": "b", "4.png": "a", "./5.png": "b", "deep/er/6.png": "a"}
    write(root / file, rows.items())
    dataset = load(root)
    found = {name: label for split in dataset.splits for name, label in labels(dataset, split, root).items()}
    assert dataset.class_names == ["a", "b"]
    assert found == {name.removeprefix("./"): label for name, label in rows.items()}


@pytest.mark.parametrize("above", [True, False], ids=["one above", "one in each"])
@pytest.mark.parametrize("held_out", [("test",), ("val",), ("val", "test")])
def test_splits_are_those_of_folders(make, file, held_out, above):
    rows = {"train": 40, **dict.fromkeys(held_out, 4)}
    names = {split: [f"{index}.png" for index in range(count)] for split, count in rows.items()}
    root = make(*(f"{split}/{name}" for split, some in names.items() for name in some))
    if above:
        write(root / file, [(f"{split}/{name}", f"c{int(name[0]) % 2}") for split in names for name in names[split]])
    else:
        for split, some in names.items():
            write(root / split / file, [(name, f"c{int(name[0]) % 2}") for name in some])
    dataset = load(root)
    (test,) = {path.split("/")[0] for path in labels(dataset, "test", root)}
    (val,) = {path.split("/")[0] for path in labels(dataset, "val", root)}
    assert (val, test) == {("test",): ("train", "test"), ("val",): ("train", "val")}.get(held_out, ("val", "test"))
    assert sum(len(split) for split in dataset.splits.values()) == sum(rows.values())


def test_splits_may_use_either_format(make):
    root = make(*(f"{split}/{index}.png" for split in ("train", "test") for index in range(20)))
    for split, name in (("train", "metadata.csv"), ("test", "metadata.jsonl")):
        write(root / split / name, [(f"{index}.png", "ab"[index % 2]) for index in range(20)])
    assert len(load(root).splits["test"]) == 20


def test_the_order_of_rows_plays_no_part(make, file):
    root = make(*LABELS)
    write(root / file, LABELS.items())
    first = load(root)
    write(root / file, reversed(LABELS.items()))
    assert labels(load(root), "val", root) == labels(first, "val", root)


def test_other_columns_and_images_that_no_row_names_are_left_out(make, file):
    root = make(*LABELS, "unlabelled.png", "notes.txt")
    write(root / file, [(7, label, name, None) for name, label in LABELS.items()], ("", "label", "file_name", "x"))
    assert sum(len(split) for split in load(root).splits.values()) == len(LABELS)


def test_labels_may_be_numbers_and_any_words(make, file):
    root = make(*LABELS)
    write(root / file, [(name, index % 2) for index, name in enumerate(LABELS)])
    assert load(root).class_names == ["0", "1"]
    words = [" Löwe, groß ", "猫 🐈"]
    write(root / file, [(name, words[index % 2]) for index, name in enumerate(LABELS)])
    assert ImageDataModule("folder", root).class_names == ["Löwe, groß", "猫 🐈"]


def test_byte_order_mark_and_windows_line_ends(make, file):
    root = make(*LABELS)
    text = write(root / file, LABELS.items()).read_text(encoding="utf-8")
    (root / file).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load(root).class_names == ["cat", "dog"]


def test_groups_go_with_their_images_into_every_split(make, file):
    root = make(*LABELS)
    group_of = {name: f"../shop {index % 3}" if index % 3 else 7 for index, name in enumerate(LABELS)}
    write(
        root / file, [(name, label, group_of[name]) for name, label in LABELS.items()], ("file_name", "label", "group")
    )
    for split in load(root).splits.values():
        assert [str(group_of[path.name]) for path in split.images] == split.groups.tolist()
        taken = split.take(np.array([1, 0]))
        assert taken.groups.tolist() == split.groups[[1, 0]].tolist()


def test_without_the_column_there_are_no_groups(make, file):
    root = make(*LABELS)
    write(root / file, LABELS.items())
    assert all(split.groups is None for split in load(root).splits.values())


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_groups_of_one_split_alone_are_refused(make, file, held_out):
    root = make(*(f"{split}/{index}.png" for split in ("train", held_out) for index in range(2)))
    write(root / "train" / file, [("0.png", "a"), ("1.png", "b")])
    rows = [("0.png", "a", "x"), ("1.png", "b", "y")]
    write(root / held_out / file, rows, ("file_name", "label", "group"))
    with pytest.raises(
        UserError, match=rf"train/{file}, line \d: no group, and .*{held_out}/{file}, line \d has one\."
    ):
        load(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("gone.png", "cat"), r"gone\.png is missing\. Add it, or remove the line\."),
        (("folder.png", "cat"), r"folder\.png is a folder"),
        (("01.png", "dog"), r"01\.png was named before, in .*, line \d\. Remove one\."),
        (("./01.png", "dog"), r"01\.png was named before"),
        (("notes.txt", "cat"), r"notes\.txt is not an image \(\.bmp, .*\)\. Remove it\."),
        (("../out.png", "cat"), r"\.\./out\.png lies outside .*\. Name files relative to it\."),
        (("a/../../out.png", "cat"), r"a/\.\./\.\./out\.png lies outside"),
        (("..\\out.png", "cat"), r"out\.png lies outside"),
        (("/out.png", "cat"), r"/out\.png lies outside"),
        (("20.png", ""), r"label is ''\. Write a text or a whole number\."),
        (("20.png", "  "), r"label is '  '\. Write a text"),
        (("", "cat"), r"file_name is ''\. Write a text"),
    ],
)
def test_message_for_a_row(make, file, row, message):
    root = make("my/20.png", "my/notes.txt", "my/folder.png/x", "out.png", *(f"my/{name}" for name in LABELS)) / "my"
    write(root / file, [*LABELS.items(), row])
    number = len(LABELS) + (2 if file == "metadata.csv" else 1)
    with pytest.raises(UserError, match=rf"^--data\.root: {root}/{file}, line {number}: .*{message}") as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, True, 1.5, ["cat"], {"a": 1}])
def test_message_for_a_label_of_another_kind(make, value):
    root = make("0.png")
    write(root / "metadata.jsonl", [("0.png", value)])
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 1: label is .*\. Write a text or a whole number\."):
        load(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "metadata.csv",
            "file_name,class\n0.png,a",
            r"line 2: no column 'label' \(found 'file_name', 'class'\)\. Rename",
        ),
        (
            "metadata.csv",
            "image,label\n0.png,a",
            r"line 2: no column 'file_name' \(found 'image', 'label'\)\. Rename one",
        ),
        ("metadata.csv", "file_name;label\n0.png;a", r"line 2: no column 'file_name' \(found 'file_name;label'\)"),
        ("metadata.csv", "file_name,label\n0.png", r"line 2: label is None"),
        ("metadata.csv", "file_name,label\n0.png,a,b", r"line 2: not CSV \(more cells than columns\)\. Mend quotes"),
        ("metadata.csv", 'file_name,label\n"0.png,a', r"line 2: not CSV \(unexpected end of data\)"),
        ("metadata.csv", "file_name,label\n0.png,a\n", r": found 1 labels in .*metadata\.csv\. At least two classes"),
        ("metadata.csv", "", r": found 0 labels in .*metadata\.csv\. At least two classes are needed\."),
        ("metadata.jsonl", "", r": found 0 labels in .*metadata\.jsonl\. At least two classes are needed\."),
        ("metadata.jsonl", '\n{"file_name": "0.png"}', r"line 2: no column 'label' \(found 'file_name'\)"),
        ("metadata.jsonl", '{"file_name": "0.png"', r"line 1: not JSON \(.*\)\. Write an object a line\."),
        ("metadata.jsonl", "[" * 100_000, r"line 1: not JSON \(.*\)"),
        ("metadata.jsonl", "[1]", r"line 1: \[1\] is no JSON object\. Write one a line\."),
        ("metadata.csv", b"\xff", r"metadata\.csv cannot be read \(.*\)\. Save it as UTF-8\."),
        ("metadata.jsonl", b"\xff", r"metadata\.jsonl cannot be read \(.*\)\. Save it as UTF-8\."),
        (
            "metadata.jsonl",
            '{"file_name": "0.png", "label": "a/b"}\n{"file_name": "1.png", "label": "c"}',
            "class name 'a/b'",
        ),
    ],
)
def test_message_for_a_file(make, name, text, message):
    root = make("0.png", "1.png")
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_message_for_two_files(make):
    root = make("train/0.png", "test/0.png")
    for folder in (root, root / "train"):
        for name in ("metadata.csv", "metadata.jsonl"):
            write(folder / name, [("0.png", "a")])
        with pytest.raises(
            UserError, match=rf"{folder}/metadata\.csv lies beside metadata\.jsonl\. Keep one of them\."
        ):
            load(root)
        for path in folder.glob("metadata.*"):
            path.unlink()


def test_message_for_files_above_and_in_splits(make, file):
    root = make("train/0.png", "test/0.png")
    write(root / file, [("train/0.png", "a")])
    write(root / "test" / file, [("0.png", "a")])
    with pytest.raises(
        UserError, match=rf"{root}/{file} lies above {root}/test/{file}\. Keep one file, or one in each"
    ):
        load(root)


def test_message_for_a_split_without_a_file(make, file):
    root = make("train/0.png", "test/0.png")
    write(root / "train" / file, [("0.png", "a")])
    message = rf"{root}/train/{file} labels one split, and {root}/test has no such file\. Add it\."
    with pytest.raises(UserError, match=message):
        load(root)


@pytest.mark.parametrize("split", ["val", "test"])
def test_message_for_a_label_that_is_not_in_train(make, file, split):
    root = make(*(f"{name}/{index}.png" for name in ("train", split) for index in range(2)))
    write(root / "train" / file, [("0.png", "a"), ("1.png", "b")])
    write(root / split / file, [("0.png", "a"), ("1.png", "c")])
    number = 3 if file == "metadata.csv" else 2
    message = rf"{root}/{split}/{file}, line {number}: label 'c' has no images in train\. Add some, or remove it\."
    with pytest.raises(UserError, match=message):
        load(root)


def test_message_for_an_image_outside_of_the_splits(make, file):
    root = make("train/0.png", "test/0.png", "0.png")
    write(root / file, [("train/0.png", "a"), ("test/0.png", "a"), ("0.png", "a")])
    with pytest.raises(UserError, match=r"0\.png lies in none of train, test\. Move it there\."):
        load(root)


def test_message_for_a_split_in_other_words(make, file):
    """It would be mixed into the others."""
    root = make("train/0.png", "validation/0.png")
    write(root / file, [("train/0.png", "a"), ("validation/0.png", "a")])
    with pytest.raises(UserError, match=r"validation looks like a split and would not be one\. Call it val\."):
        load(root)
