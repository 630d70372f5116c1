import pytest

from synthicl.core.errors import UserError
from synthicl.data.datamodule import ImageDataModule


def images(data, split):
    found = data.splits[split].images
    return {image.tobytes() for image in found} if data.name == "digits" else set(found)


@pytest.mark.parametrize("layout", ["digits", "flat", "train and test"])
def test_another_split_seed_gives_another_val(layout, image_folder):
    name, root = "folder", None
    if layout == "digits":
        name = "digits"
    elif layout == "flat":
        root = image_folder({"a": 20, "b": 20})
    else:
        root = image_folder({"train/a": 30, "train/b": 30, "test/a": 3, "test/b": 3})
    first, again, other = (ImageDataModule(name, root or "data", split_seed=seed) for seed in (0, 0, 1))
    assert images(first, "val") == images(again, "val") != images(other, "val")
    assert (images(first, "test") == images(other, "test")) == (layout == "train and test")
    for data in (first, other):
        assert not images(data, "train") & images(data, "val")
        assert len(data.splits["val"]) == len(first.splits["val"])


def test_default_split_seed_is_0():
    assert ImageDataModule("digits").split_seed == 0


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_message_for_a_split_seed_out_of_range(seed):
    with pytest.raises(UserError, match=rf"^--data\.split_seed={seed}: must lie between 0 and 4294967295\.$"):
        ImageDataModule("digits", split_seed=seed)


def test_largest_split_seed():
    assert len(ImageDataModule("digits", split_seed=2**32 - 1).splits["val"]) == 359
