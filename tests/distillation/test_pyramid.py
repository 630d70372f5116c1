"""Decode and growth against the formulae, written out."""

import pytest
import torch
import torch.nn.functional as F

from synthicl.distillation.color import COLOR_BASIS, correlate_colors
from synthicl.distillation.pyramid import SyntheticPyramid, resolutions


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (32, [1, 2, 4, 8, 16, 32]), (224, [1, 2, 4, 8, 16, 32, 64, 128, 224])],
)
def test_resolutions_are_powers_of_two_and_the_last_is_clamped(size, expected):
    assert resolutions(size) == expected


def grown(pyramid: SyntheticPyramid, levels: int) -> SyntheticPyramid:
    while len(pyramid.levels) < levels:
        pyramid.grow()
    return pyramid


def test_decode_equals_the_formula():
    pyramid = grown(SyntheticPyramid(range(2), 6), 4)
    assert [level.shape[-1] for level in pyramid.levels] == [1, 2, 4, 6]
    total = sum(F.interpolate(level, size=(6, 6), mode="bilinear", align_corners=False) for level in pyramid.levels)
    matrix = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    matrix = matrix / matrix.norm(dim=0).max()
    expected = torch.empty_like(total)
    for row in range(6):
        for column in range(6):
            expected[:, :, row, column] = torch.sigmoid(2 * total[:, :, row, column] @ matrix.T)
    torch.testing.assert_close(pyramid.decode(), expected)


def test_growth_equals_the_formula():
    pyramid = grown(SyntheticPyramid(range(2), 8), 2)
    before = [level.detach().clone() for level in pyramid.levels]
    pyramid.grow()
    for old, new in zip(before, pyramid.levels[:2], strict=True):
        torch.testing.assert_close(new.detach(), old * 2 / 3)
    assert pyramid.levels[2].shape == (2, 3, 4, 4)
    noise = torch.cat([grown(SyntheticPyramid([image], 8), 3).levels[2] for image in range(4000)]).detach() * 3
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01


def test_growth_in_zero_mode_leaves_the_image_as_it_was():
    pyramid = grown(SyntheticPyramid(range(2), 8, init="zero"), 3)
    with torch.no_grad():
        for level in pyramid.levels:
            level.copy_(torch.randn_like(level))
    before = pyramid.decode()
    pyramid.grow()  # the last level has full resolution, where nothing is lost to interpolation
    torch.testing.assert_close(pyramid.decode(), before)


def test_zero_mode_starts_grey():
    assert (SyntheticPyramid(range(2), 8, init="zero").decode() == 0.5).all()


def test_initial_values_belong_to_the_image_not_to_its_holder():
    whole = grown(SyntheticPyramid(range(5), 8, seed=3), 4)
    part = grown(SyntheticPyramid(range(2, 5), 8, seed=3), 4)
    other = grown(SyntheticPyramid(range(2, 5), 8, seed=4), 4)
    for all_rows, some_rows, other_seed in zip(whole.levels, part.levels, other.levels, strict=True):
        assert torch.equal(all_rows[2:], some_rows)
        assert not torch.equal(some_rows, other_seed)


def test_pixels_are_one_level_of_full_resolution():
    pixels = SyntheticPyramid(range(2), 8, grows=False)
    assert [tuple(level.shape) for level in pixels.levels] == [(2, 3, 8, 8)]
    assert pixels.is_complete
    with pytest.raises(RuntimeError, match="all 1 levels exist"):
        pixels.grow()


def test_colours_can_be_left_alone():
    pyramid = SyntheticPyramid(range(2), 8, grows=False, decorrelate=False)
    torch.testing.assert_close(pyramid.decode(), torch.sigmoid(2 * pyramid.levels[0]))


def test_color_basis_has_largest_column_norm_one():
    assert COLOR_BASIS.norm(dim=0).max() == pytest.approx(1)
    rgb = correlate_colors(torch.tensor([1.0, 0.0, 0.0])[None, :, None, None])
    torch.testing.assert_close(rgb.flatten().double(), COLOR_BASIS[:, 0], rtol=1e-6, atol=0)


def test_gradient_reaches_every_level():
    pyramid = grown(SyntheticPyramid(range(2), 8), 4)
    pyramid.decode().square().sum().backward()
    assert all((level.grad.flatten(1).norm(dim=1) > 0).all() for level in pyramid.levels)


def test_gradients_of_some_images_are_added_in_place():
    whole, parts = (grown(SyntheticPyramid(range(5), 8, seed=1), 4) for _ in range(2))
    weight = torch.randn(5, 3, 8, 8)
    (whole.decode() * weight).sum().backward()
    for level in parts.levels:
        level.grad = torch.zeros_like(level)
    places = [level.grad.data_ptr() for level in parts.levels]
    for some in (slice(0, 2), slice(2, 3), slice(3, 5)):
        (parts.decode(some) * weight[some]).sum().backward()
    assert [level.grad.data_ptr() for level in parts.levels] == places
    for one, other in zip(whole.levels, parts.levels, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(parts.decode(slice(2, 4)), whole.decode()[2:4])
