"""Frozen feature extractors: image -> embedding.

A family is one module in ``models/`` that defines ``REGISTERED``, a dict from name to `BackboneSpec`; other packages
register theirs as entry points of the group ``synthicl.backbones``. Importing this package does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synthicl.backbones import models
from synthicl.backbones.spec import BackboneSpec
from synthicl.core.registry import Registry, instance_of

if TYPE_CHECKING:
    from synthicl.backbones.frozen import FrozenBackbone

BACKBONES: Registry[BackboneSpec] = Registry(
    models.__name__, "synthicl.backbones", "--backbone.name", "a BackboneSpec", instance_of(BackboneSpec)
)


def backbone_spec(name: str) -> BackboneSpec:
    """The backbone called ``name``.

    Raises:
        UserError: there is none; the message lists the names.
    """
    return BACKBONES.get(name)


def create_backbone(name: str, weights: str | Path | None = None) -> FrozenBackbone:
    """Create a frozen backbone: images (N, 3, H, W) in [0, 1] -> embeddings (N, D), normalising inside.

    Args:
        name: for example ``mini`` or ``dinov2_vitb14``.
        weights: a local weights file; None for the bundled or downloaded one.

    Raises:
        UserError: unknown name, missing or unfitting weights.
    """
    # Loads torch: names are checked before that, a network is built after.
    from synthicl.backbones.frozen import FrozenBackbone

    return FrozenBackbone(name, weights)
