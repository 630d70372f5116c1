"""A picture of labelled images that stands on its own: every image with its class name."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 10
MAX_IMAGES = 200  # images in one picture


def image_grid(images: Tensor, names: list[str]) -> Tensor:
    """Draw images with their names, pixels as squares, the first `MAX_IMAGES` of them.

    Args:
        images: (n, 3, S, S), uint8.
        names: n titles.

    Returns:
        (3, H, W), uint8.
    """
    shown = images[:MAX_IMAGES].cpu().permute(0, 2, 3, 1).numpy()
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.1 * columns, 1.3 * rows), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, name in zip(axes, shown, names, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(name if len(name) <= 16 else name[:15] + "…", fontsize=9, parse_math=False)
    if len(images) > MAX_IMAGES:
        figure.suptitle(f"the first {MAX_IMAGES} of {len(images)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script the font lacks is drawn as boxes
        canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)
