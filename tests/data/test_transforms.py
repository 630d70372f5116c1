import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from synthicl.data.images import LabelledImages, read_image
from synthicl.data.transforms import RandomSquares, SquareImages, centre_square, crop_centre, random_squares


@pytest.fixture
def picture(tmp_path, write_image):
    return read_image(write_image(tmp_path / "x.png", size=(60, 40)))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 33), (1, 1), (1, 9), (7, 1)])
def test_any_size_becomes_a_square(tmp_path, write_image, size):
    image = read_image(write_image(tmp_path / "x.png", size=size))
    for square in (centre_square(image, 32), random_squares(image, 32, [(0, "key")])[0]):
        assert square.shape == (3, 32, 32)
        assert square.dtype == torch.uint8


def test_centre_equals_torchvisions_resize_and_crop(picture):
    expected = v2.Compose([v2.PILToTensor(), v2.CenterCrop(32)])(v2.Resize(32)(picture))
    assert torch.equal(centre_square(picture, 32), expected)


def test_random_square_is_a_function_of_its_key(picture):
    first, again = (random_squares(picture, 32, [(1, "image", 5)]) for _ in range(2))
    assert torch.equal(first, again)
    others = {random_squares(picture, 32, [(1, "image", i)]).numpy().tobytes() for i in range(20)}
    assert len(others) > 5


def test_random_squares_reach_both_ends():
    """Columns of the resized image are numbered by their grey value."""
    picture = Image.new("L", (64, 32))
    picture.putdata([x for _ in range(32) for x in range(64)])
    lefts = {int(random_squares(picture.convert("RGB"), 32, [(i,)])[0, 0, 0, 0]) for i in range(400)}
    assert min(lefts) == 0
    assert max(lefts) == 32


@pytest.mark.parametrize(("side", "size"), [(40, 32), (37, 32), (32, 32)])
def test_crop_centre_equals_torchvisions(side, size):
    images = torch.rand(2, 3, side, side)
    cropped = crop_centre(images, size)
    assert cropped.shape == (2, 3, size, size)
    if (side - size) % 2 == 0:
        assert torch.equal(cropped, v2.functional.center_crop(images, [size, size]))


def test_dataset_reads_the_images_of_its_split(tmp_path, write_image):
    paths = [write_image(tmp_path / f"{i}.png", size=(20, 30), seed=i) for i in range(3)]
    images = LabelledImages(paths, torch.arange(3).numpy())
    keys = [(7, "bank", 0), (7, "bank", 1)]
    clean, augmented = SquareImages(images, 16), RandomSquares(images, 16, keys)
    assert len(clean) == 3
    for i, path in enumerate(paths):
        assert torch.equal(clean[i], centre_square(read_image(path), 16))
        for view, key in enumerate(keys):
            assert torch.equal(augmented[i][view], random_squares(read_image(path), 16, [(*key, i)])[0])
