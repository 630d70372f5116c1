"""The DINOv2 backbones (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), with and without registers.

The network is timm's, because timm is maintained; the features are those of the official code
(https://github.com/facebookresearch/dinov2), because published numbers rest on them. The two differ in one step: the
position embedding is stored for a grid of 37 x 37 patches (518 px) and resampled for every other size. For the models
without registers the official code does this without antialiasing, and timm with it (see `resample_positions`).
"""

from __future__ import annotations

import math
import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from synthicl.backbones.spec import BackboneSpec
from synthicl.backbones.weight_files import FLAG, first_difference, first_names, misfit, read_tensors
from synthicl.core.assets import Asset, cache_dir
from synthicl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

ADVICE = "Give the official .pth or timm's model.safetensors."
SOURCE = "https://dl.fbaipublicfiles.com/dinov2"  # dinov2/hub/utils.py
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: dinov2/data/transforms.py
REGISTERS = 4  # Darcet et al. 2023, https://arxiv.org/abs/2309.16588
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}  # width, blocks, heads


def resample_positions(grid: Tensor, height: int, width: int, *, antialias: bool) -> Tensor:
    """Resample a square position embedding to another grid, as the official code does.

    In float32 whatever the weights' type, bicubic. Source: ``interpolate_pos_encoding`` in
    dinov2/models/vision_transformer.py, and its two settings in dinov2/hub/backbones.py: (antialias, offset) is
    (False, 0.1) without registers and (True, 0.0) with them.

    Args:
        grid: (1, S * S, D), row by row.
        height: rows of the new grid, in patches.
        width: columns of the new grid, in patches.
        antialias: whether the weights are those of a model with registers.

    Returns:
        (1, height * width, D) in the type of ``grid``, and ``grid`` itself where the size is its own.
    """
    # Loads torch: names are checked before that, a network is built after.
    from torch.nn.functional import interpolate

    side = math.isqrt(grid.shape[1])
    if (height, width) == (side, side):
        return grid
    image = grid.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if antialias:
        image = interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    else:
        # The 0.1 once kept a rounding error from losing a row; it stays because it also moves the sampling points.
        scale = ((height + 0.1) / side, (width + 0.1) / side)
        image = interpolate(image, scale_factor=scale, mode="bicubic")
    return image.flatten(2).transpose(1, 2).to(grid.dtype)


@cache
def _network_class() -> type[VisionTransformer]:
    """The network, defined on first use: a class statement at module level would import torch with the module."""
    # Loads torch: names are checked before that, a network is built after.
    import torch
    from timm.models.vision_transformer import VisionTransformer

    class Dinov2(VisionTransformer):
        """timm's vision transformer with the official resampling of the position embedding.

        Maps normalised images (N, 3, H, W), H and W multiples of 14, to the CLS token after the final norm, (N, D).
        Once its weights are frozen, it resamples the position embedding once per size.

        Raises:
            ValueError: H or W is not a multiple of the patch size.
        """

        cls_token: nn.Parameter
        pos_embed: nn.Parameter

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._positions: dict[tuple[int, int], Tensor] = {}  # a plain dict: not in the state dict

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            height, width = x.shape[-2:]
            patch = self.patch_embed.patch_size[0]
            if height % patch or width % patch:
                raise ValueError(f"image size {height} x {width}: DINOv2 needs multiples of {patch} pixels.")
            return super().forward(x, *args, **kwargs)

        def _pos_embed(self, x: Tensor) -> Tensor:
            """Patch embeddings (N, h, w, D) to all tokens (N, T, D), in the order CLS, registers, patches."""
            # With registers, timm keeps the sum of the CLS token and its position as the CLS token (`no_embed_class`).
            cls = self.cls_token if self.no_embed_class else self.cls_token + self.pos_embed[:, :1]
            prefix = [cls] if self.reg_token is None else [cls, self.reg_token]
            patches = x.flatten(1, 2) + self._patch_positions(x.shape[1], x.shape[2])
            return torch.cat([*(token.expand(x.shape[0], -1, -1) for token in prefix), patches], dim=1)

        def _patch_positions(self, height: int, width: int) -> Tensor:
            grid = self.pos_embed if self.no_embed_class else self.pos_embed[:, 1:]
            antialias = self.reg_token is not None
            if grid.requires_grad:
                return resample_positions(grid, height, width, antialias=antialias)
            if (height, width) not in self._positions:
                with torch.inference_mode(False):  # a tensor made in it cannot be saved for a backward pass
                    positions = resample_positions(grid, height, width, antialias=antialias)
                self._positions[height, width] = positions
            return self._positions[height, width]

        def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # behind .to() and its kin
            self._positions.clear()
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            return self

        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            self._positions.clear()
            super()._load_from_state_dict(*args, **kwargs)

    return Dinov2


def build(size: str, registers: bool, **overrides: Any) -> VisionTransformer:
    """The network of one model, its weights to be loaded.

    Args:
        size: a key of `SIZES`.
        registers: whether it has the four register tokens.
        overrides: of timm's arguments; the tests make it narrow.
    """
    # Loads torch: names are checked before that, a network is built after.
    from timm.layers.mlp import SwiGLUPacked
    from torch.nn import SiLU

    width, depth, heads = SIZES[size]
    options: dict[str, Any] = {"img_size": 518, "patch_size": 14, "num_classes": 0, "dynamic_img_size": True}
    options |= {"embed_dim": width, "depth": depth, "num_heads": heads, "init_values": 1.0}
    options |= {"reg_tokens": REGISTERS * registers, "no_embed_class": registers}
    options |= {"weight_init": "skip"}  # half the time, and every weight is loaded
    if size == "g":
        # timm counts both halves of the gated layer: int(1536 * 5.33334) = 2 * 4096 (dinov2/layers/swiglu_ffn.py).
        # The activation is stated because the network would otherwise hand the layer its own, GELU.
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": SiLU, "mlp_ratio": 2 * 2.66667}
    return _network_class()(**options | overrides)


def load(network: nn.Module, path: Path) -> None:
    """Load the official ``.pth``, or timm's weights as safetensors or ``.pth``, strictly.

    Raises:
        UserError: the file cannot be read, holds Python objects, or holds the weights of another network.
    """
    state = _with_timm_names(read_tensors(path, ADVICE), path)
    expected = network.state_dict()
    fault = first_difference(state, expected)
    if fault and _describe(state) == _describe(expected):
        raise misfit(path, f"incomplete or changed: {fault}", ADVICE)
    if fault:
        raise UserError(
            f"{FLAG}={path}: holds {_describe(state)}, this backbone is {_describe(expected)} ({fault}). "
            "Choose the --backbone.name of the file, or another file."
        )
    network.load_state_dict(state)


def _with_timm_names(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Translate the official names, none of which timm uses; what has timm's names passes unchanged."""
    dimensions = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4}
    lacking = [name for name in dimensions if name not in state]
    if 0 < len(lacking) < len(dimensions):
        raise misfit(path, f"incomplete: {lacking[0]} is missing", ADVICE)
    if lacking or any(state[name].ndim != count for name, count in dimensions.items()):
        raise misfit(path, f"not DINOv2 with the official names or timm's (found {first_names(state)})", ADVICE)
    swiglu = {"w12": "fc1", "w3": "fc2"}
    renamed = {re.sub(r"(?<=\.mlp\.)(w12|w3)", lambda found: swiglu[found[0]], name): state[name] for name in state}
    renamed.pop("mask_token", None)  # used in pre-training only
    if "register_tokens" in renamed:
        renamed["reg_token"] = renamed.pop("register_tokens")
        if renamed["cls_token"].shape[1:] != (1, renamed["pos_embed"].shape[2]):
            raise misfit(path, "incomplete or changed: cls_token and pos_embed do not belong together", ADVICE)
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed


def _describe(state: Mapping[str, Tensor]) -> str:
    """Name and size of the model that weights with timm's names belong to."""
    width = state["cls_token"].shape[-1]
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    registers = state["reg_token"].shape[1] if "reg_token" in state and state["reg_token"].ndim == 3 else 0
    size = next((key for key, (wide, deep, _) in SIZES.items() if (wide, deep) == (width, depth)), None)
    name = _name(size, registers > 0) if size else "no model of this family"
    return f"{name} (width {width}, {depth} blocks, {registers} registers)"


def _name(size: str, registers: bool) -> str:
    return f"dinov2_vit{size}14" + "_reg" * registers


def _spec(size: str, registers: bool) -> BackboneSpec:
    letter = size if size == "g" else size.upper()  # ViT-g, not ViT-G: as the authors write it
    what = f"DINOv2 ViT-{letter}/14 weights" + " (with registers)" * registers
    model = _name(size, registers=False)
    file = model + "_reg4" * registers + "_pretrain.pth"
    weights = Asset(what, FLAG, (cache_dir() / file,), f"{SOURCE}/{model}/{file}")
    make: Callable[[], nn.Module] = partial(build, size, registers)
    return BackboneSpec(224, MEAN, STD, make, load, weights, "Apache-2.0")


REGISTERED = {_name(size, registers): _spec(size, registers) for registers in (False, True) for size in SIZES}
