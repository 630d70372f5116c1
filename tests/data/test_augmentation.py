"""Augmentation against torchvision's crop, and as a function of its key."""

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from synthicl.data.augmentation import Augmentation, AugmentationParameters


def images(n: int = 6, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def identity(n: int, size: int, **changes) -> AugmentationParameters:
    no = torch.zeros(n, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0.0, size, size]]).repeat(n, 1)
    values = {"boxes": boxes, "flip": no, "noisy": no, "color": torch.ones(n, 6), "first": 0, "noise_seed": 0}
    return AugmentationParameters(**values | changes)


def test_whole_box_is_the_identity():
    x = images()
    torch.testing.assert_close(Augmentation().apply(x, identity(6, 16), 16), x, rtol=0, atol=1e-5)


def test_flip_mirrors_left_to_right():
    x = images()
    flipped = Augmentation().apply(x, identity(6, 16, flip=torch.ones(6, dtype=torch.bool)), 16)
    torch.testing.assert_close(flipped, x.flip(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [8, 12, 16, 24])
def test_crop_equals_torchvision(size):
    """In the interior: torchvision crops before it resizes, so at the edge of the box it cannot see beyond."""
    x = images(4, 16)
    boxes = torch.tensor([[0.0, 0, 16, 16], [2, 3, 10, 12], [5, 0, 8, 16], [4, 4, 12, 12]])
    actual = Augmentation().apply(x, identity(4, 16, boxes=boxes), size)
    for row, (left, top, width, height) in enumerate(boxes.int().tolist()):
        expected = transforms.resized_crop(x[row], top, left, height, width, [size, size], antialias=False)
        inner = slice(2, -2)
        torch.testing.assert_close(actual[row][:, inner, inner], expected[:, inner, inner], rtol=0, atol=1e-4)


def test_boxes_across_the_image_are_the_public_code_s():
    """Width sqrt(a r), height sqrt(a / r), corner u (1 - width): what that says of their distribution."""
    drawn = Augmentation(crop="across").draw(200_000, 50, 0).boxes / 50
    corner, size = drawn[:, :2], drawn[:, 2:]
    area, ratio = size.prod(1), size[:, 0] / size[:, 1]
    assert area.min() >= 0.08 and area.max() <= 1 and ratio.min() >= 3 / 4 and ratio.max() <= 4 / 3
    for values, low, high in ((area, 0.08, 1.0), (ratio.log(), torch.tensor(3 / 4).log(), torch.tensor(4 / 3).log())):
        uniform = ((values - low) / (high - low)).sort().values
        assert (uniform - torch.linspace(0, 1, len(uniform))).abs().max() < 0.005  # Kolmogorov and Smirnov's distance
    exceeds = (size > 1).any(1)
    assert exceeds.float().mean() == pytest.approx(0.14, abs=0.005)
    assert (Augmentation(crop="across", area=(0.6, 1)).draw(200_000, 50, 0).boxes[:, 2:] > 50).any(
        1
    ).float().mean() == pytest.approx(0.33, abs=0.01)
    place = corner / (1 - size)
    assert place.min() >= 0 and place.max() <= 1 and place.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert not (Augmentation().draw(1000, 50, 0).boxes[:, 2:] > 50).any()


def test_outside_the_image_there_is_black_where_boxes_lie_across_it():
    x = torch.ones(1, 3, 16, 16)
    parameters = identity(1, 16, boxes=torch.tensor([[-8.0, 0.0, 32.0, 16.0]]))
    seen = Augmentation(crop="across").apply(x, parameters, 16)[0, 0, 8]
    assert seen[:3].tolist() == [0, 0, 0] and seen[-3:].tolist() == [0, 0, 0] and seen[6:10].tolist() == [1] * 4
    assert Augmentation().apply(x, parameters, 16).min() == 1


def test_parameters_are_a_function_of_the_key():
    augmentation = Augmentation()
    first, again = (augmentation.draw(8, 16, 0, "synthetic", 3) for _ in range(2))
    other = augmentation.draw(8, 16, 0, "synthetic", 4)
    x = images(8)
    assert torch.equal(augmentation.apply(x, first, 12), augmentation.apply(x, again, 12))
    assert not torch.equal(first.boxes, other.boxes)
    assert first.noise_seed != other.noise_seed


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Augmentation().draw(4, 16, 0)
    assert torch.equal(torch.rand(3), expected)


def test_some_rows_get_what_they_get_among_all():
    augmentation, x = Augmentation(color=0.4), images(8)
    parameters = augmentation.draw(8, 16, 0)
    whole = augmentation.apply(x, parameters, 12)
    torch.testing.assert_close(augmentation.apply(x[3:5], parameters[3:5], 12), whole[3:5])


def test_distribution_is_what_was_asked_for():
    augmentation = Augmentation(flip=0.3, area=(0.25, 0.5), ratio=(1.0, 1.0), noise_probability=0.7)
    parameters = augmentation.draw(4000, 64, 1)
    left, top, width, height = parameters.boxes.T
    share = width * height / 64**2
    assert share.min() > 0.22  # kornia rounds sides to whole pixels
    assert share.max() < 0.53
    assert share.mean() == pytest.approx(0.375, abs=0.01)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 64).all()
    assert (top + height <= 64).all()
    assert parameters.flip.float().mean() == pytest.approx(0.3, abs=0.03)
    assert parameters.noisy.float().mean() == pytest.approx(0.7, abs=0.03)


def test_noise_has_the_stated_mean_and_std_and_is_not_clamped():
    augmentation = Augmentation(noise_mean=0.5, noise_std=0.2)
    x = torch.ones(64, 3, 16, 16)
    noisy = augmentation.apply(x, identity(64, 16, noisy=torch.ones(64, dtype=torch.bool)), 16) - 1
    assert noisy.mean() == pytest.approx(0.5, abs=0.01)
    assert noisy.std() == pytest.approx(0.2, abs=0.01)
    assert not torch.equal(noisy[0], noisy[1])


def test_colours_change_as_torchvision_changes_them():
    """Brightness, contrast and saturation, each alone; torchvision clamps, so the images keep away from 0 and 1."""
    augmentation, x = Augmentation(color=0.2, noise_probability=0), 0.4 + 0.2 * images()
    theirs = (transforms.adjust_brightness, None, transforms.adjust_saturation)
    for place, changed in zip((3, 4, 5), theirs, strict=True):
        color = torch.ones(6, 6)
        color[:, place] = 1.2
        seen = augmentation.apply(x, identity(6, 16, color=color), 16)
        if changed:
            torch.testing.assert_close(seen, changed(x, 1.2), atol=1e-3, rtol=0)  # theirs rounds the luma to 4 digits
        else:  # torchvision's contrast turns about the mean of the grey image, kornia's and ours about the mean
            mean = x.mean((1, 2, 3), keepdim=True)
            torch.testing.assert_close(seen, mean + 1.2 * (x - mean))
    tinted = augmentation.apply(x, identity(6, 16, color=torch.tensor([[1.1, 1, 0.9, 1, 1, 1]]).repeat(6, 1)), 16)
    torch.testing.assert_close(tinted, x * torch.tensor([1.1, 1, 0.9])[:, None, None])


def test_factors_of_colour_are_in_their_ranges_and_change_nothing_else():
    parameters, without = Augmentation(color=0.4).draw(2000, 64, 1), Augmentation().draw(2000, 64, 1)
    least, greatest = parameters.color.amin(0), parameters.color.amax(0)
    torch.testing.assert_close(least, torch.tensor([0.8, 0.8, 0.8, 0.6, 0.6, 0.6]), atol=0.01, rtol=0)
    torch.testing.assert_close(greatest, torch.tensor([1.2, 1.2, 1.2, 1.4, 1.4, 1.4]), atol=0.01, rtol=0)
    assert torch.equal(parameters.boxes, without.boxes)
    assert torch.equal(parameters.noisy, without.noisy)
    assert (without.color == 1).all()


def test_gradient_reaches_the_images():
    augmentation, x = Augmentation(), images().requires_grad_()
    augmentation.apply(x, augmentation.draw(6, 16, 0), 12).sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
