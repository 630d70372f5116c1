"""What a backbone family states about its models, without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from synthicl.core.assets import Asset

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone: how it is built, which pixels it expects, where its weights lie.

    Attributes:
        image_size: input resolution in pixels that contexts are embedded at, unless the user says otherwise.
        mean: channel means of the images it was trained on, in [0, 1].
        std: channel standard deviations, likewise.
        build: makes the module; it maps normalised images (N, 3, H, W) to embeddings (N, D).
        load: loads a weights file into that module, strictly.
        weights: where the weights lie, or come from.
        licence: of the weights.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    build: Callable[[], nn.Module]
    load: Callable[[nn.Module, Path], None]
    weights: Asset
    licence: str

    def weights_asset(self, weights: str | Path | None) -> Asset:
        """The asset for a weights file the user named, or the default one."""
        if weights is None:
            return self.weights
        return Asset(self.weights.what, self.weights.flag, (Path(weights),))
