import tarfile

import numpy as np
import pytest
from torchvision.datasets import Imagenette

from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.datasets import dataset_spec
from synthicl.data.datasets.imagenette import CLASSES, FOLDERS


@pytest.fixture
def miniature(tmp_path, write_image):
    """The layout of the real Imagenette with 10 train and 2 val images of each class."""
    folder = tmp_path / "data" / "imagenette2-160"
    for number, wnid in enumerate(CLASSES):
        for i in range(10):
            write_image(folder / "train" / wnid / f"{wnid}_{i}.JPEG", "L" if i == 0 else "RGB", seed=number)
        for i in range(2):
            write_image(folder / "val" / wnid / f"ILSVRC2012_val_{i:08d}.JPEG", seed=number)
    return folder


def pack(folder):
    archive = folder.with_name("imagenette2-160.tgz")
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    folder.rename(folder.with_name("kept"))
    return archive


def test_classes_are_torchvisions(miniature):
    for split in ("train", "val"):
        theirs = Imagenette(miniature.parent, split=split, size="160px")
        assert theirs.wnids == list(CLASSES)
        assert [names[0] for names in theirs.classes] == list(CLASSES.values())


def test_splits_are_those_of_torchvision(miniature):
    """Its val is our test; its train is our train and, a stratified tenth of it, our val."""
    ours = ImageDataModule("imagenette-160", miniature.parent)
    parts = {
        name: {(str(path), int(label)) for path, label in zip(split.images, split.labels, strict=True)}
        for name, split in ours.splits.items()
    }
    assert parts["test"] == set(Imagenette(miniature.parent, split="val", size="160px")._samples)
    assert parts["train"] | parts["val"] == set(Imagenette(miniature.parent, split="train", size="160px")._samples)
    assert np.bincount(ours.splits["train"].labels).tolist() == [9] * 10
    assert np.bincount(ours.splits["val"].labels).tolist() == [1] * 10
    assert ours.class_names[0] == "tench"


def test_another_split_seed_gives_another_val_and_the_same_test(miniature):
    first, other = (ImageDataModule("imagenette-160", miniature, split_seed=seed).splits for seed in (0, 1))
    assert list(first["test"].images) == list(other["test"].images)
    assert set(first["val"].images) != set(other["val"].images)


def test_root_may_be_the_folder_itself(miniature):
    spec = dataset_spec("imagenette-160")
    inside, above = spec.load(miniature, 0), spec.load(miniature.parent, 0)
    assert all(list(inside.splits[name].images) == list(above.splits[name].images) for name in above.splits)


@pytest.mark.parametrize("inside", [False, True])
def test_archive_is_unpacked_once_whole(miniature, capsys, inside):
    archive = pack(miniature)
    root = miniature if inside else miniature.parent
    for _ in range(2):
        data = ImageDataModule("imagenette-160", root)
        assert len(data.splits["test"]) == 20
    unpacked = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Warning: ")]
    assert unpacked == [f"Unpacking {archive}"]
    assert sorted(path.name for path in miniature.parent.iterdir()) == [miniature.name, archive.name, "kept"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "other"])
def test_damaged_archive_leaves_nothing(miniature, damage):
    archive = pack(miniature)
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
    elif damage == "text":
        content = bytearray(b"not an archive")
    archive.write_bytes(content)
    if damage == "other":
        with tarfile.open(archive, "w:gz") as file:
            file.add(miniature.with_name("kept"), "imagewoof2-160")
    with pytest.raises(UserError, match=r"imagenette2-160\.tgz: damaged, or not imagenette2-160 .* Delete it and run"):
        ImageDataModule("imagenette-160", miniature.parent)
    assert sorted(path.name for path in miniature.parent.iterdir()) == [archive.name, "kept"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_message_for_a_class_or_split_that_is_missing(miniature, split):
    (miniature / split / "n03888257").rename(miniature / "elsewhere")
    with pytest.raises(UserError, match=rf"--data\.root: .*{split} lacks n03888257\. Unpack the archive again\."):
        ImageDataModule("imagenette-160", miniature.parent)
    (miniature / split).rename(miniature / "gone")
    with pytest.raises(UserError, match=rf"{split} lacks n01440764, .*, n03888257\."):
        ImageDataModule("imagenette-160", miniature.parent)


@pytest.mark.parametrize(("name", "size"), [("imagenette", "full"), ("imagenette-320", "320px")])
def test_addresses_and_folders_are_torchvisions(tmp_path, name, size):
    (asset,) = dataset_spec(name).assets(tmp_path)
    assert asset.source == Imagenette._ARCHIVES[size][0]
    assert asset.places == (tmp_path / FOLDERS[size], tmp_path / asset.source.rpartition("/")[2])
    assert asset.flag == "--data.root"
