"""Colour decorrelation: channels of natural images are highly correlated, so optimise in a basis where they are not.

The matrix is the Cholesky-like factor of ImageNet's colour covariance used by lucid
(https://github.com/tensorflow/lucid, ``optvis/param/color.py``), divided by its largest column norm. No mean is added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synthicl.core.devices import to_device

_COLOR_CORRELATION_SVD_SQRT = torch.tensor(
    [[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64
)
COLOR_BASIS = _COLOR_CORRELATION_SVD_SQRT / _COLOR_CORRELATION_SVD_SQRT.norm(dim=0).max()


def correlate_colors(decorrelated: Tensor) -> Tensor:
    """Map decorrelated channels to correlated RGB: rgb' = M rgb at each pixel.

    Args:
        decorrelated: (N, 3, H, W).

    Returns:
        (N, 3, H, W), not bounded.
    """
    basis = to_device(COLOR_BASIS.to(decorrelated.dtype), decorrelated.device)
    return (basis @ decorrelated.flatten(2)).view_as(decorrelated)
