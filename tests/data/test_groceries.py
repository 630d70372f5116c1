import re
import shutil
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest

from synthicl.core.assets import cache_dir, require
from synthicl.core.errors import UserError
from synthicl.data.archives import SUFFIXES
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.datasets import dataset_spec
from synthicl.data.datasets.groceries import EASY, HARD, TUNING

NAMES = ("groceries", "groceries-hard", "groceries-42", "groceries-81")
APPLES = {"Golden Delicious", "Granny Smith", "Pink Lady", "Red Delicious", "Royal Gala"}
COARSE = dict.fromkeys(APPLES, "Apple") | {"Brown Cap Mushroom": "Mushroom", "Regular Tomato": "Tomato"}
FINE = [*sorted({*EASY, *HARD, "Passion Fruit"}), *TUNING]
COUNTS = {"train": 8, "val": 2, "test": 3}  # images of a class; some have none in val


def folder_of(fine, split):
    """Folders are not labels: as in the real dataset, one class lies elsewhere in test than in train."""
    name = fine.replace(" ", "-")
    return (
        f"{split}/Vegetables/Mushroom/{name}" if fine == "Brown Cap Mushroom" and split == "test" else f"{split}/{name}"
    )


@pytest.fixture
def repository(tmp_path):
    """The layout of the real dataset, in a few classes; images are not opened, so they need not be any."""
    dataset = tmp_path / "data" / "GroceryStoreDataset" / "dataset"
    dataset.mkdir(parents=True)
    (dataset.parent / "LICENSE").write_text("MIT License")
    sorted_coarse = [*sorted({COARSE.get(name, name) for name in FINE if name not in TUNING}), *TUNING]
    coarse_ids = {name: number for number, name in enumerate(sorted_coarse)}
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic Image Path (str)"
    table = []
    for number, fine in enumerate(FINE):
        coarse = COARSE.get(fine, fine)
        table.append(f"{fine.replace(' ', '-')},{number},{coarse.replace(' ', '-')},{coarse_ids[coarse]},/iconic/x.jpg")
    (dataset / "classes.csv").write_bytes("\r\n".join([header, *table]).encode())
    for split, count in COUNTS.items():
        lines = []
        for number, fine in enumerate(FINE):
            for index in range(0 if split == "val" and number % 3 == 0 else count):
                name = f"{folder_of(fine, split)}/{index:03d}.jpg"
                (dataset / name).parent.mkdir(parents=True, exist_ok=True)
                (dataset / name).write_text(f"{fine} {split} {index}")
                lines.append(f"{name}, {number}, {coarse_ids[COARSE.get(fine, fine)]}\n")
        (dataset / f"{split}.txt").write_text("".join(lines))
    return dataset.parent


def load(root, name="groceries", split_seed=0):
    return dataset_spec(name).load(root, split_seed)


def pairs(dataset, split):
    """(content, class name) of each image; the content says which image it is."""
    found = dataset.splits[split]
    return [
        (path.read_text(), dataset.class_names[label]) for path, label in zip(found.images, found.labels, strict=True)
    ]


def edit(path, old, new):
    text = path.read_bytes().decode()
    assert text.count(old) >= 1
    path.write_bytes(text.replace(old, new, 1).encode())


@pytest.mark.parametrize("name", NAMES)
def test_splits(repository, name):
    dataset = load(repository, name)
    train, val, test = (pairs(dataset, split) for split in ("train", "val", "test"))
    assert len({image for image, _ in [*train, *val, *test]}) == len(train) + len(val) + len(test)
    wanted = {"groceries": EASY, "groceries-hard": HARD}.get(name, FINE)
    assert len(test) == COUNTS["test"] * len(wanted)
    assert {image.split()[-2] for image, _ in test} == {"test"}
    assert {image.split()[-2] for image, _ in [*train, *val]} == {"train", "val"}
    listed = [10 if FINE.index(fine) % 3 else 8 for fine in wanted]
    assert len(train) + len(val) == sum(listed)
    if name != "groceries-42":
        assert np.bincount(dataset.splits["val"].labels).tolist() == [2] * len(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_those_of_the_lists(repository, name):
    dataset = load(repository, name)
    for split in dataset.splits:
        for image, label in pairs(dataset, split):
            fine = image.rsplit(" ", 2)[0]
            assert label == (COARSE.get(fine, fine) if name == "groceries-42" else fine)


def test_class_names(repository):
    assert load(repository).class_names == list(EASY)
    assert load(repository, "groceries-hard").class_names == list(HARD)
    assert load(repository, "groceries-81").class_names == FINE
    coarse = load(repository, "groceries-42").class_names
    assert coarse == list(dict.fromkeys(COARSE.get(fine, fine) for fine in FINE))
    assert {"Apple", "Mushroom", "Passion Fruit"} < set(coarse)
    assert len(EASY) == len(HARD) == 10


def test_settings_are_chosen_on_official_test_images_of_other_classes_than_those_of_ten_that_are_reported(repository):
    dataset = load(repository, "groceries-tuning")
    train, val, test = (pairs(dataset, split) for split in ("train", "val", "test"))
    assert not set(TUNING) & {*EASY, *HARD}
    assert {image.split()[-2] for image, _ in train} <= {"train", "val"}
    assert {image.split()[-2] for image, _ in [*val, *test]} == {"test"}
    assert not set(val) & set(test)
    assert {name for _, name in val} == {name for _, name in test} == set(TUNING)
    assert len(val) + len(test) == COUNTS["test"] * len(TUNING)


def test_another_split_seed_gives_another_val_and_the_same_test(repository):
    first, again, other = (load(repository, split_seed=seed) for seed in (0, 0, 1))
    assert pairs(first, "val") == pairs(again, "val") != pairs(other, "val")
    assert pairs(first, "test") == pairs(other, "test")


def test_data_module(repository):
    data = ImageDataModule("groceries", repository.parent)
    assert data.num_classes == 10
    assert data.licence == "MIT"


@pytest.mark.parametrize("layout", ["above", "itself", "dataset", "master", "bare dataset below"])
def test_root_may_be_any_of_the_folders(repository, layout):
    expected = [path.read_text() for path in load(repository).splits["train"].images]
    root = {"itself": repository, "dataset": repository / "dataset"}.get(layout, repository.parent)
    if layout == "master":
        repository.rename(repository.with_name("GroceryStoreDataset-master"))
    elif layout == "bare dataset below":
        (repository / "dataset").rename(root / "dataset")
        shutil.rmtree(repository)
    assert [path.read_text() for path in load(root).splits["train"].images] == expected


def pack(folder, archive, name):
    """Pack ``folder`` as ``name`` and remove it; ``archive`` without its suffix says the format by it."""
    packed = folder.rename(folder.with_name("packed"))
    if archive.suffix == ".zip":
        staging = folder.parent / "staging"
        staging.mkdir()
        packed.rename(staging / name)
        shutil.make_archive(str(archive.with_suffix("")), "zip", staging)
        shutil.rmtree(staging)
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
            file.add(packed, name)
        shutil.rmtree(packed)
    return archive


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("inside", ["GroceryStoreDataset", "GroceryStoreDataset-master", "dataset"])
def test_root_may_be_an_archive(repository, suffix, inside, capsys):
    expected = {split: pairs(load(repository), split) for split in COUNTS}
    folder = repository / "dataset" if inside == "dataset" else repository
    archive = pack(folder, repository.parent / f"any name{suffix}", inside)
    for _ in range(2):
        dataset = load(archive)
        assert {split: pairs(dataset, split) for split in COUNTS} == expected
    assert capsys.readouterr().out == f"Unpacking {archive}\n"
    assert all(path.is_relative_to(cache_dir() / "datasets") for path in dataset.splits["train"].images)


@pytest.mark.parametrize("name", ["GroceryStoreDataset-master.zip", "grocery-store.tar", "GroceryStoreDataset.tar.gz"])
def test_root_may_hold_an_archive(repository, name):
    expected = pairs(load(repository), "val")
    archive = pack(repository, repository.parent / name, "GroceryStoreDataset-master")
    (archive.parent / "another.zip").write_text("not looked at")
    assert pairs(load(archive.parent), "val") == expected
    assert {path.name for path in archive.parent.iterdir()} == {name, "another.zip"}


def test_folder_comes_before_archive(repository):
    (repository.parent / "grocery-store.tar").write_text("not looked at")
    load(repository.parent)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK no archive"])
def test_message_for_a_damaged_archive(tmp_path, content):
    archive = tmp_path / "grocery-store.tar"
    archive.write_bytes(content)
    line = rf"^{archive}: damaged, or not the Grocery Store Dataset \(.*\)\. Delete it and run again\.$"
    for root in (archive, tmp_path):
        with pytest.raises(UserError, match=line):
            load(root)


@pytest.fixture
def no_network(monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound without listen: connections are refused
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{held.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("no_network")
def test_message_without_files_and_network(tmp_path):
    line = (
        "Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019, arXiv 1901.00711, MIT licence): not found "
        f"(looked for {tmp_path}/GroceryStoreDataset, {tmp_path}/GroceryStoreDataset-master.zip; it comes from "
        "https://github.com/marcusklasson/GroceryStoreDataset/archive/refs/heads/master.zip, which is out of reach). "
        "Supply it with --data.root=PATH."
    )
    for act in (lambda: require(dataset_spec("groceries").assets(tmp_path)), lambda: load(tmp_path)):
        with pytest.raises(UserError) as caught:
            act()
        assert str(caught.value) == line


def test_archive_that_was_named_and_is_gone_is_not_downloaded(tmp_path):
    """A zip would be written under the name of a tar."""
    with pytest.raises(UserError, match=r"not found \(looked for .*gone\.tar\)\. Supply it with --data\.root=PATH\.$"):
        load(tmp_path / "gone.tar")


def test_what_is_missing_is_downloaded_and_says_whose_it_is(repository, monkeypatch, capsys):
    root = repository.parent
    archive = pack(repository, root.parent / "master.zip", "GroceryStoreDataset-master")
    monkeypatch.setattr("synthicl.core.assets.reachable", lambda url: True)
    monkeypatch.setattr("synthicl.core.assets._download", lambda asset: [archive.read_bytes()])
    load(root)
    downloading, unpacking = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"Downloading Grocery Store Dataset \(Klasson, .*, arXiv 1901\.00711, MIT licence\) from https://github\.com/"
        r"marcusklasson/\S+ to .*data/GroceryStoreDataset-master\.zip",
        downloading,
    )
    assert unpacking == f"Unpacking {root / 'GroceryStoreDataset-master.zip'}"
    load(root)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("val.txt", "000.jpg, 1, ", "000.jpg 1, ", r"val\.txt, line 1: '.*' is not 'path, class id, coarse id'"),
        ("train.txt", "000.jpg, 0, 1", "000.jpg, 0", r"train\.txt, line 1: '.*' is not 'path, class id, coarse id'"),
        ("train.txt", "001.jpg, 0, 1", "001.jpg, x, 1", r"train\.txt, line 2: '.*' is not 'path, class id, coarse id'"),
        (
            "test.txt",
            "000.jpg, 0, ",
            "000.jpg, 99, ",
            r"test\.txt, line 1: classes\.csv has no class 99 of coarse class 1",
        ),
        (
            "test.txt",
            "000.jpg, 0, 1",
            "000.jpg, 0, 0",
            r"test\.txt, line 1: classes\.csv has no class 0 of coarse class 0",
        ),
        ("test.txt", "test/", "../", r"test\.txt, line 1: \.\./.*\.jpg lies outside .*dataset"),
        ("test.txt", "test/", "/etc/", r"test\.txt, line 1: /etc/.*\.jpg lies outside .*dataset"),
        ("test.txt", "001.jpg", "000.jpg", r"test\.txt, line 2: .*000\.jpg was named before, in .*test\.txt, line 1"),
        ("test.txt", "test/Avocado/000", "train/Avocado/000", r"test\.txt, line 1: .* before, in .*train\.txt, line 1"),
        ("train.txt", "Avocado/003", "Avocado/gone", r"train\.txt, line 4: .*gone\.jpg is missing"),
        (
            "classes.csv",
            "Avocado,0,",
            "Avocado,zero,",
            r"classes\.csv, line 2: not 'name, class id, coarse name, coarse",
        ),
        ("classes.csv", "Avocado,0,Avocado,1,/iconic/x.jpg", "Avocado,0", r"classes\.csv, line 2: not 'name, class id"),
        ("classes.csv", "Banana,1", "Bandana,1", r"classes\.csv: lacks Banana"),
    ],
)
def test_message_for_a_damaged_list(repository, file, old, new, message):
    edit(repository / "dataset" / file, old, new)
    line = rf"^--data\.root: {repository}/dataset/{message}.*\. Put a whole copy of the dataset in its place\.$"
    with pytest.raises(UserError, match=line) as caught:
        load(repository)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["classes.csv", "val.txt", "test.txt"])
def test_message_for_a_list_that_cannot_be_read(repository, file):
    path = repository / "dataset" / file
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=rf"{file}: cannot be read \(.*\)\. Put a whole copy"):
        load(repository)
    path.unlink()
    with pytest.raises(UserError, match=rf"{file}: cannot be read \(.*No such file.*\)\. Put a whole copy"):
        load(repository)


def test_class_name_that_cannot_be_a_folder(repository):
    edit(repository / "dataset/classes.csv", "Avocado,0", "../x,0")
    with pytest.raises(UserError, match=r"class name '\.\./x' cannot be a folder's name"):
        load(repository)


def test_images_of_classes_that_are_not_asked_for_may_be_missing(repository):
    shutil.rmtree(repository / "dataset/train/Passion-Fruit")
    load(repository)
    with pytest.raises(UserError, match=r"Passion-Fruit/000\.jpg is missing"):
        load(repository, "groceries-81")


def test_empty_lines_and_windows_line_ends(repository):
    path = Path(repository / "dataset/train.txt")
    expected = pairs(load(repository), "train")
    path.write_bytes(b"\r\n" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert pairs(load(repository), "train") == expected
