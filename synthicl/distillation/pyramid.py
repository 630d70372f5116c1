"""Synthetic images as a growing pyramid of resolutions, or as plain pixels (a pyramid of one level).

G. Cazenavette, A. Torralba and V. Sitzmann, "Dataset Distillation for Pre-Trained Self-Supervised Vision Models",
NeurIPS 2025, https://arxiv.org/abs/2511.16674, section 3; exact values from its public code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthicl.core.randomness import keyed_generator
from synthicl.distillation.color import correlate_colors


def resolutions(size: int) -> list[int]:
    """Resolutions of all levels up to ``size``: 1, 2, 4, ..., the last one clamped to ``size``."""
    powers = [2**level for level in range((size - 1).bit_length())]
    return [*powers, size]


def interpolation(level: Tensor, size: int) -> Tensor:
    """The matrix (size, R) of linear interpolation along one axis of a level (N, 3, R, R), not antialiased."""
    unit = torch.eye(level.shape[-1], dtype=level.dtype, device=level.device)
    return F.interpolate(unit[None], size=size, mode="linear")[0].T


def enlarge(levels: Sequence[Tensor], size: int) -> Tensor:
    """The sum of levels (N, 3, R, R), each with its own R, enlarged to (N, 3, size, size).

    Bilinear interpolation is a matrix on either side. As products of matrices it takes a ninth of the time of
    ``F.interpolate`` on a CPU (nine levels to 256 px), and its gradient is a sum in a fixed order on every device.
    """
    *coarse, finest = levels
    if finest.shape[-1] < size:
        coarse, finest = [*levels], finest.new_zeros(())
    if not coarse:
        return finest
    matrices = [interpolation(level, size) for level in coarse]
    columns = [level @ matrix.T for level, matrix in zip(coarse, matrices, strict=True)]
    return torch.cat(matrices, 1) @ torch.cat(columns, -2) + finest


class SyntheticPyramid(nn.Module):
    """Images stored as one tensor per level of resolution, decoded to [0, 1].

    Decoding upsamples every level to full size (bilinear), adds them up, correlates the colours and applies
    sigmoid(2 x). Training starts with the coarsest level; `grow` adds the next. Levels that were not added yet do not
    exist: they cost neither compute nor optimiser state.

    Args:
        image_indices: global index of each image held here. Initial values are functions of (seed, image, level), so
            that an image starts the same whichever rank holds it.
        size: resolution S of the decoded images, in pixels.
        seed: seed of the initial values.
        init: ``noise`` is the reference: a new level is N(0, 1) / (n + 1), with n the number of levels before it.
            ``zero`` starts from grey, and a new level is the mean of the upsampled others, which leaves the sum as it
            was.
        grows: False gives pixel mode: a single level at full resolution.
        decorrelate: whether colours are stored decorrelated.
    """

    levels: nn.ParameterList

    def __init__(
        self,
        image_indices: Sequence[int],
        size: int,
        seed: int = 0,
        init: Literal["noise", "zero"] = "noise",
        grows: bool = True,
        decorrelate: bool = True,
    ) -> None:
        super().__init__()
        self.image_indices = list(image_indices)
        self.size = size
        self.seed = seed
        self.init = init
        self.decorrelate = decorrelate
        self.resolutions = resolutions(size) if grows else [size]
        first = (
            self._noise(0) if init == "noise" else torch.zeros(len(self.image_indices), 3, *[self.resolutions[0]] * 2)
        )
        self.levels = nn.ParameterList([first])

    def _noise(self, level: int) -> Tensor:
        """N(0, 1) of the shape of a level, (N, 3, R, R), drawn image by image."""
        resolution = self.resolutions[level]
        draws = [
            torch.randn(3, resolution, resolution, generator=keyed_generator(self.seed, "pyramid", image, level))
            for image in self.image_indices
        ]
        return torch.stack(draws) if draws else torch.empty(0, 3, resolution, resolution)

    @property
    def is_complete(self) -> bool:
        """Whether the finest level exists."""
        return len(self.levels) == len(self.resolutions)

    @property
    def resolution(self) -> int:
        """Resolution of the finest level there is, in pixels."""
        return self.resolutions[len(self.levels) - 1]

    @torch.no_grad()
    def grow(self) -> None:
        """Add the next level: the n levels before it are multiplied by n / (n + 1), the new one is divided by n + 1.

        The parameters are new objects afterwards: an optimiser must be pointed at them, and starts afresh.

        Raises:
            RuntimeError: the finest level exists already.
        """
        if self.is_complete:
            raise RuntimeError(f"all {len(self.resolutions)} levels exist")
        n = len(self.levels)
        levels = [level * (n / (n + 1)) for level in self.levels]
        if self.init == "noise":
            new = self._noise(n).to(levels[0]) / (n + 1)
        else:
            new = enlarge(levels, self.resolutions[n]) / n
        self.levels = nn.ParameterList([*levels, new])

    def decode(self, images: slice = slice(None)) -> Tensor:
        """Decode some of the images, (N, 3, S, S) in (0, 1).

        Where the levels have a ``grad`` already, gradients are added to these images' rows of it, in place:
        back-propagating into a few of many images costs what a few images cost.
        """
        total = enlarge([_rows(level, images) for level in self.levels], self.size)
        return torch.sigmoid(2 * (correlate_colors(total) if self.decorrelate else total))


def _rows(level: Tensor, images: slice) -> Tensor:
    """Some rows of a level: a leaf whose gradient is those rows of the level's gradient, if it has one."""
    if level.grad is None or not torch.is_grad_enabled():
        return level[images]
    leaf = level.detach()[images].requires_grad_()
    leaf.grad = level.grad[images]
    return leaf
