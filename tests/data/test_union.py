"""A dataset with folders of further images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from synthicl.backbones import create_backbone
from synthicl.core.errors import UserError
from synthicl.data.augmentation import Augmentation
from synthicl.data.datamodule import ImageDataModule
from synthicl.embeddings import bank
from synthicl.embeddings.bank import embed_clean, embed_views

OWN = {"own/bee": 6, "own/cat": 6}


def test_new_classes_follow_and_images_of_known_ones_join(image_folder):
    root = image_folder({**OWN, "more/ant": 6, "more/cat": 6, "last/dog": 6})
    data = ImageDataModule("folder", root / "own", more=(root / "more", root / "last"))
    assert data.class_names == ["bee", "cat", "ant", "dog"]
    assert data.num_classes == 4
    for images in data.splits.values():
        names = [image.parent.name for image in images.images]
        assert names == [data.class_names[label] for label in images.labels]
        assert [image.parent.parent.name for image in images.images] == sorted(
            (image.parent.parent.name for image in images.images), key=["own", "more", "last"].index
        )
    assert sum(map(len, data.splits.values())) == 30


def test_no_image_changes_its_split(image_folder):
    root = image_folder({**OWN, "more/ant": 6, "more/dog": 6})
    together = ImageDataModule("folder", root / "own", more=(root / "more",))
    for part, place in enumerate(("own", "more")):
        alone = ImageDataModule("folder", root / place)
        for split, images in together.splits.items():
            assert images.parts[part].images == alone.splits[split].images


def test_without_further_folders_a_dataset_is_as_it_was():
    assert all(not images.parts for images in ImageDataModule("digits").splits.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, r"^--data\.root=.*/more: not a folder\. Name the folder"),
        ({"more/ant": 1}, r"^--data\.root=.*/more: no val images of class 'ant'"),
        ({"more/e\u0301": 6, "more/\u00e9": 6}, r"^--data\.root=.*/more: two classes look the same"),
    ],
)
def test_folders_that_cannot_be_added(image_folder, more, message):
    root = image_folder({**OWN, **more})
    with pytest.raises(UserError, match=message):
        ImageDataModule("folder", root / "own", more=(root / "more",))


def test_a_folder_without_a_class(image_folder):
    root = image_folder(OWN)
    (root / "more").mkdir()
    with pytest.raises(UserError, match=r"found 0 class folders in .*; at least one class is needed\.$"):
        ImageDataModule("folder", root / "own", more=(root / "more",))


def test_parts_are_embedded_as_they_would_be_alone_and_not_again(image_folder, monkeypatch):
    root = image_folder({**OWN, "more/ant": 6})
    backbone = create_backbone("mini")
    own = ImageDataModule("folder", root / "own").splits["train"]
    together = ImageDataModule("folder", root / "own", more=(root / "more",)).splits["train"]
    views = {"augmentation": Augmentation(), "image_size": 32, "views": 2}
    alone = [embed_views(backbone, part, 32, **views) for part in together.parts]
    assert torch.equal(embed_views(backbone, together, 32, **views), torch.cat(alone, 1))
    assert not torch.equal(alone[0][0], alone[0][1])

    clean = embed_clean(backbone, own, 32)
    embedded = []
    monkeypatch.setattr(bank, "SquareImages", lambda images, size: embedded.append(images) or SQUARES(images, size))
    found = embed_clean(backbone, together, 32)
    assert [[Path(image).parent.name for image in part.images] for part in embedded] == [
        ["ant"] * len(together.parts[1])
    ]
    assert torch.equal(found.z[: len(own)], clean.z)
    assert np.array_equal(found.y.numpy(), together.labels)


SQUARES = bank.SquareImages
