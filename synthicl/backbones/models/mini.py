"""The bundled backbones: two small networks for 32 px images, pre-trained by ``scripts/pretrain_backbone.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthicl.backbones.spec import BackboneSpec
from synthicl.core.assets import Asset
from synthicl.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

SIZE = 32
WEIGHTS = Path(__file__).parents[1] / "weights"


def mini() -> nn.Module:
    """A ViT of 0.8 M parameters: patch 8, width 128, depth 4; the embedding is the CLS token after the norm."""
    # Loads torch: names are checked before that, a network is built after.
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=0, global_pool="token"
    )


def mini_conv() -> nn.Module:
    """A residual network of 0.6 M parameters: another inductive bias, for transfer; average-pooled, 128-d."""
    # Loads torch: names are checked before that, a network is built after.
    from timm.models.resnet import BasicBlock, ResNet

    block: Any = BasicBlock  # timm annotates an instance where it wants the class
    return ResNet(block, layers=(1, 1, 1, 1), channels=(32, 64, 128, 128), stem_width=32, num_classes=0)


def load_safetensors(network: nn.Module, path: Path) -> None:
    """Load a safetensors file strictly.

    Raises:
        UserError: it is no safetensors file, or its tensors are those of another network.
    """
    # Loads torch: names are checked before that, weights are read after.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--backbone.weights={path}: not the weights of this backbone ({reason}). "
            "Choose another file or --backbone.name."
        ) from error


def _spec(build: Callable[[], nn.Module]) -> BackboneSpec:
    name = build.__name__
    weights = Asset(f"weights of the bundled backbone {name}", "--backbone.weights", (WEIGHTS / f"{name}.safetensors",))
    half = (0.5, 0.5, 0.5)
    return BackboneSpec(SIZE, half, half, build, load_safetensors, weights, "MIT (trained by this project)")


REGISTERED = {"mini": _spec(mini), "mini_conv": _spec(mini_conv)}
