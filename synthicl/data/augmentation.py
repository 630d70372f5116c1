"""Differentiable augmentation with parameters drawn once and replayed.

The family is the reference's (linear-gradient-matching): horizontal flip, random resized crop, Gaussian noise, on
images in [0, 1] before normalisation, not clamped; and, off by default, changes of colour. kornia draws flips and
boxes; because both are affine, one ``grid_sample`` applies them (kornia's own warps cost as much as a small backbone).
Parameters of all images of a step are drawn at once, identically on every rank, and indexed by whoever needs some of
them; noise fields are too large for that and are drawn where they are needed, in blocks that belong to fixed rows (a
generator for every row would cost a GPU as much as a small backbone).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from torch import Tensor

from synthicl.core.devices import to_device
from synthicl.core.errors import UserError, check_between
from synthicl.core.randomness import derive_seed, keyed_generator

FLAGS = "--model.views.augmentation."
MAX_RATIO, MAX_NOISE = 1000, 1000  # images are in [0, 1]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision
COLOR_RANGE = torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])  # of the factors in AugmentationParameters.color
NOISE_BLOCK = 16  # rows whose noise is drawn together


@dataclass(frozen=True)
class AugmentationParameters:
    """What is done to each of N images.

    Attributes:
        boxes: (N, 4) left, top, width, height of the crop in pixels of the input.
        flip: (N,) bool, mirrored left to right after the crop.
        noisy: (N,) bool, noise is added.
        color: (N, 6) factors: of red, green and blue, of brightness, of contrast, of saturation.
        first: number of the first of these images among all that were drawn for.
        noise_seed: of the noise fields of all of them.
    """

    boxes: Tensor
    flip: Tensor
    noisy: Tensor
    color: Tensor
    first: int
    noise_seed: int

    def __getitem__(self, rows: slice) -> AugmentationParameters:
        """The parameters of consecutive images."""
        first = self.first + rows.indices(len(self.boxes))[0]
        return AugmentationParameters(
            self.boxes[rows], self.flip[rows], self.noisy[rows], self.color[rows], first, self.noise_seed
        )


@dataclass
class Augmentation:
    """Strength of the augmentation; it belongs to a dataset's configuration, since flips and small crops ruin digits.

    Args:
        flip: probability of a horizontal flip.
        area: least and greatest share of the image that a crop keeps.
        ratio: least and greatest aspect ratio of a crop.
        crop: where boxes lie. ``inside`` the image, at whole pixels, as torchvision's and kornia's do; or ``across``
            it, as the public code's: the width sqrt(a r) or the height sqrt(a / r) of a box, as shares of the image,
            may exceed 1 (14 % of the boxes with the defaults), its corner is u (1 - width), and outside there is black.
        noise_probability: probability that an image gets noise.
        noise_mean: mean of the noise. The public code has 0.5, the paper says 0.
        noise_std: standard deviation of the noise, in units of the [0, 1] range.
        color: how much colours change, from 0 to 1: a view's brightness, contrast and saturation are multiplied by
            factors drawn evenly from 1 - color to 1 + color, its red, green and blue by factors from half that range.
            Light and white balance differ from camera to camera.
    """

    flip: float = 0.5
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop: Literal["inside", "across"] = "inside"
    noise_probability: float = 0.5
    noise_mean: float = 0.0
    noise_std: float = 0.2
    color: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a probability outside [0, 1], no share of an image, or a range whose end is before its beginning.
        """
        check_between(0, 1, FLAGS, flip=self.flip, noise_probability=self.noise_probability, color=self.color)
        for name, (least, greatest), most in (("area", self.area, 1), ("ratio", self.ratio, MAX_RATIO)):
            if not 0 < least <= greatest <= most:
                raise UserError(f"{FLAGS}{name}=[{least}, {greatest}]: must be two rising numbers in (0, {most}].")
        check_between(-MAX_NOISE, MAX_NOISE, FLAGS, noise_mean=self.noise_mean)
        check_between(0, MAX_NOISE, FLAGS, noise_std=self.noise_std)

    def draw(self, count: int, image_size: int, *key: int | str) -> AugmentationParameters:
        """Draw the parameters of ``count`` square images of ``image_size`` pixels, as a function of ``key``."""
        with torch.random.fork_rng(devices=[]):  # kornia draws from the global generator
            torch.manual_seed(derive_seed(*key))
            boxes = self._boxes_across(count) * image_size if self.crop == "across" else self._boxes(count, image_size)
            flip, noisy = torch.rand(2, count) < torch.tensor([[self.flip], [self.noise_probability]])
            color = 1 + self.color * COLOR_RANGE * (2 * torch.rand(count, 6) - 1)
        return AugmentationParameters(boxes, flip, noisy, color, 0, derive_seed(*key, "noise"))

    def _boxes(self, count: int, image_size: int) -> Tensor:
        """Boxes inside the image, (N, 4) left, top, width, height in pixels."""
        crop = K.RandomResizedCrop((image_size, image_size), self.area, self.ratio, cropping_mode="resample")
        corners = crop.forward_parameters(torch.Size((count, 3, image_size, image_size)))["src"]
        left_top = corners[:, 0]
        return torch.cat([left_top, corners[:, 2] + 1 - left_top], 1)  # kornia's corners are inclusive

    def _boxes_across(self, count: int) -> Tensor:
        """The public code's boxes (linear-gradient-matching, commit 1d84ffd), (N, 4), as shares of the image."""
        area, ratio = torch.tensor(self.area), torch.tensor(self.ratio).log()
        areas = area[0] + torch.rand(count) * (area[1] - area[0])
        ratios = (ratio[0] + torch.rand(count) * (ratio[1] - ratio[0])).exp()
        sizes = torch.stack([areas * ratios, areas / ratios], 1).sqrt()
        return torch.cat([torch.rand(count, 2) * (1 - sizes), sizes], 1)

    def apply(self, images: Tensor, parameters: AugmentationParameters, size: int) -> Tensor:
        """Crop, flip and add noise.

        Args:
            images: (N, 3, S, S) in [0, 1].
            parameters: of these N images.
            size: resolution of the result in pixels.

        Returns:
            (N, 3, size, size), differentiable with respect to ``images``, not clamped.
        """
        boxes = to_device(parameters.boxes.to(images.dtype), images.device)
        mirror = 1 - 2 * to_device(parameters.flip, images.device).to(images)
        # An output in [-1, 1] maps to scale * output + shift in the input's [-1, 1] (pixel edges, align_corners off).
        scale = boxes[:, 2:] / images.shape[-1]
        shift = (2 * boxes[:, :2] + boxes[:, 2:]) / images.shape[-1] - 1
        theta = images.new_zeros(len(images), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0] * mirror, scale[:, 1], shift
        grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
        outside = "zeros" if self.crop == "across" else "border"
        views = F.grid_sample(images, grid, padding_mode=outside, align_corners=False)
        if self.color:
            views = _recolor(views, to_device(parameters.color.to(images.dtype), images.device))
        if self.noise_probability == 0:
            return views
        noisy = to_device(parameters.noisy, images.device)[:, None, None, None]
        return views + noisy * (self.noise_mean + self.noise_std * _noise(parameters, views).to(views.dtype))


def _recolor(views: Tensor, factors: Tensor) -> Tensor:
    """Views (N, 3, S, S) with other light, contrast and saturation; factors (N, 6) as in `AugmentationParameters`."""
    channels, brightness, contrast, saturation = factors[:, :, None, None].split([3, 1, 1, 1], 1)
    views = views * channels * brightness
    mean = views.mean((1, 2, 3), keepdim=True)
    views = mean + contrast * (views - mean)
    grey = (views * views.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    saturated: Tensor = grey + saturation * (views - grey)
    return saturated


def _noise(parameters: AugmentationParameters, views: Tensor) -> Tensor:
    """N(0, 1) of the shape of some views, the same for a view in whatever company it is asked for."""
    first, end = parameters.first, parameters.first + len(views)
    shape = NOISE_BLOCK, *views.shape[1:]
    blocks = []
    for block in range(first // NOISE_BLOCK, -(-end // NOISE_BLOCK)):
        generator = keyed_generator(parameters.noise_seed, block, device=views.device)
        field = torch.randn(shape, generator=generator, device=views.device)
        start = block * NOISE_BLOCK
        blocks.append(field[max(first - start, 0) : end - start])
    return torch.cat(blocks)
