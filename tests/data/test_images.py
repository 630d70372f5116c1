import io
import random
import warnings

import numpy as np
import pytest
from PIL import Image

from synthicl.core.errors import UserError
from synthicl.data.images import LabelledImages, read_image


def saved(path, image, **options):
    image.save(path, **options)
    return path


def only_pixel(image):
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.new(mode, (7, 5))
    path = saved(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), image)
    result = read_image(path)
    assert result.mode == "RGB"
    assert result.size == (7, 5)


def test_grey_is_repeated(tmp_path):
    assert only_pixel(read_image(saved(tmp_path / "x.png", Image.new("L", (1, 1), 77)))) == (77, 77, 77)


def test_array_is_taken_as_it_is():
    grey = np.full((4, 6), 9, dtype=np.uint8)
    assert only_pixel(read_image(grey)) == (9, 9, 9)
    colour = np.tile(np.array([1, 2, 3], dtype=np.uint8), (4, 6, 1))
    assert only_pixel(read_image(colour)) == (1, 2, 3)


@pytest.mark.parametrize(("alpha", "expected"), [(0, (255, 255, 255)), (255, (200, 0, 0)), (51, (244, 204, 204))])
def test_transparency_is_laid_on_white(tmp_path, alpha, expected):
    path = saved(tmp_path / "x.png", Image.new("RGBA", (1, 1), (200, 0, 0, alpha)))
    assert only_pixel(read_image(path)) == expected


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["index", "table"])
def test_palette_with_transparency_is_laid_on_white(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    result = read_image(saved(tmp_path / "x.png", image, transparency=transparency))
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    pixels = np.array([[0, 0x0100, 0x8000, 0xFFFF]], dtype=np.uint16)
    result = read_image(saved(tmp_path / f"x.{suffix}", Image.fromarray(pixels)))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "header"])
def test_message_for_a_file_that_is_no_image(tmp_path, content):
    path = tmp_path / "photo of a cat.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"photo of a cat\.png: not a readable image .* Remove it or replace it\."):
        read_image(path)


def test_message_for_a_file_that_is_gone(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: not a readable image \(.*No such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_damaged_files_raise_nothing_but_the_message(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)).save(buffer, kind)
    draw = random.Random(0)
    path = tmp_path / "x"
    refused = 0
    for trial in range(60):
        damaged = bytearray(buffer.getvalue())
        if trial % 2:
            damaged = damaged[: draw.randrange(len(damaged))]
        else:
            for _ in range(5):
                damaged[draw.randrange(len(damaged) if trial % 4 else 60)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 10


def test_reading_closes_the_file(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("RGB", (2, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        read_image(path)
    path.unlink()


def test_take_keeps_images_and_labels_together():
    images = LabelledImages([np.full((1, 1), i, dtype=np.uint8) for i in range(5)], np.arange(5) * 10)
    part = images.take(np.array([3, 1]))
    assert len(part) == 2
    assert [image.item() for image in part.images] == [3, 1]
    assert part.labels.tolist() == [30, 10]
