"""DINOv2 against a second implementation of the official forward pass, written here on plain tensors in float64."""

from __future__ import annotations

import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear, silu

import synthicl
from synthicl.backbones import BACKBONES, create_backbone
from synthicl.backbones.models.dinov2 import MEAN, REGISTERED, SIZES, STD, build, load, resample_positions
from synthicl.core.errors import UserError

PATCH, SIDE = 14, 37  # pixels a patch; patches a side of the stored position embedding
NARROW = {"embed_dim": 48, "depth": 2, "num_heads": 3}
VARIANTS = [("b", False), ("b", True), ("g", False), ("g", True)]  # plain and gated MLP, without and with registers
TIMM_NAMES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
State = dict[str, Tensor]


def official_shapes(size: str, registers: bool, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official checkpoint."""
    if size == "g":
        hidden = (width * 4 * 2 // 3 + 7) // 8 * 8
        mlp = {"mlp.w12": (2 * hidden, width), "mlp.w3": (width, hidden)}
    else:
        mlp = {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    layers: dict[str, tuple[int, ...]] = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)} | mlp
    block: dict[str, tuple[int, ...]] = {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    for name, shape in (layers | {"norm1": (width,), "norm2": (width,)}).items():
        block |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    tokens = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + SIDE**2, width), "mask_token": (1, width)}
    ends = {"patch_embed.proj.weight": (width, 3, PATCH, PATCH), "patch_embed.proj.bias": (width,)}
    ends |= {"norm.weight": (width,), "norm.bias": (width,)}
    blocks = {f"blocks.{index}.{name}": shape for index in range(depth) for name, shape in block.items()}
    return tokens | ends | blocks | ({"register_tokens": (1, 4, width)} if registers else {})


def random_state(size: str, registers: bool, width: int = 48, depth: int = 2) -> State:
    """An official checkpoint of random numbers, of a size that lets every part act on the result."""
    torch.manual_seed(0)
    state = {}
    for name, shape in official_shapes(size, registers, width, depth).items():
        draw = torch.randn(shape)
        if len(shape) in {2, 4}:
            state[name] = draw / math.sqrt(math.prod(shape[1:]))
        else:
            state[name] = (
                1 + 0.1 * draw if name.endswith(("gamma", "norm.weight", "1.weight", "2.weight")) else draw / 2
            )
    return state


def bicubic(source: int, target: int, antialias: bool) -> Tensor:
    """Matrix (target, source) of one-dimensional bicubic resampling, from the definition of the cubic kernel."""
    step = source / target if antialias else source / (target + 0.1)  # source pixels between two target pixels
    a = -0.5 if antialias else -0.75
    stretch = max(step, 1.0) if antialias else 1.0
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * step - 0.5
    taps = torch.arange(-4, source + 4, dtype=torch.float64)
    x = ((taps - centre[:, None]) / stretch).abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    kernel = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    inside = kernel[:, 4:-4].clone()
    if antialias:  # taps beyond the border are dropped, and what is left is normalised
        return inside / inside.sum(1, keepdim=True)
    inside[:, 0] += kernel[:, :4].sum(1)  # taps beyond the border read the border
    inside[:, -1] += kernel[:, -4:].sum(1)
    return inside


def reference(state: State, images: Tensor, heads: int = 3) -> Tensor:
    """The official forward pass: normalised images (N, 3, H, W) to CLS tokens (N, D), in float64."""
    p = {name: tensor.double() for name, tensor in state.items()}
    width, antialias = p["cls_token"].shape[-1], "register_tokens" in p

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (width,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

    def affine(x: Tensor, name: str) -> Tensor:
        return linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    grid = conv2d(images.double(), p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=PATCH)
    count, _, rows, columns = grid.shape
    positions = p["pos_embed"][0, 1:].view(SIDE, SIDE, width)
    if (rows, columns) != (SIDE, SIDE):
        vertical, horizontal = bicubic(SIDE, rows, antialias), bicubic(SIDE, columns, antialias)
        positions = torch.einsum("ri,cj,ijd->rcd", vertical, horizontal, positions)
    patches = grid.flatten(2).mT + positions.reshape(-1, width)
    cls = p["cls_token"][0] + p["pos_embed"][0, :1]
    registers = p["register_tokens"][0] if antialias else cls[:0]
    x = torch.cat([torch.cat([cls, registers]).expand(count, -1, -1), patches], dim=1)

    for index in range(len({name.split(".")[1] for name in p if name.startswith("blocks.")})):
        block = f"blocks.{index}"
        split = affine(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(-1, (3, heads, -1))
        q, k, v = (part.transpose(1, 2) for part in split.unbind(2))
        attention = (q @ k.mT / math.sqrt(width // heads)).softmax(-1)
        mixed = (attention @ v).transpose(1, 2).flatten(2)
        x = x + affine(mixed, f"{block}.attn.proj") * p[f"{block}.ls1.gamma"]
        z = norm(x, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in p:
            gate, value = affine(z, f"{block}.mlp.w12").chunk(2, dim=-1)
            z = affine(silu(gate) * value, f"{block}.mlp.w3")
        else:
            z = affine(gelu(affine(z, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + z * p[f"{block}.ls2.gamma"]
    return norm(x, "norm")[:, 0]


def timm_model(size: str, registers: bool, **options: Any) -> nn.Module:
    """The model as timm builds it, with timm's own resampling."""
    name = f"vit_{TIMM_NAMES[size]}_patch14{'_reg4' * registers}_dinov2"
    return timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()


def timm_loaded(size: str, registers: bool) -> nn.Module:
    """The narrow model as timm builds it, with the random weights as timm converts them."""
    model = timm_model(size, registers, **NARROW).requires_grad_(False)
    model.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(random_state(size, registers), model))
    return model


def narrow(path: Path, size: str, registers: bool) -> nn.Module:
    """Our narrow network, frozen, with the weights of a file."""
    network = build(size, registers, **NARROW).eval().requires_grad_(False)
    load(network, path)
    return network


def official_file(folder: Path, size: str, registers: bool) -> Path:
    path = folder / "official.pth"
    torch.save(random_state(size, registers), path)
    return path


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def difference(actual: Tensor, expected: Tensor) -> float:
    """Relative distance in norm."""
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("size", "registers"), VARIANTS)
def test_equals_the_official_forward(tmp_path: Path, size: str, registers: bool) -> None:
    network, state = narrow(official_file(tmp_path, size, registers), size, registers), random_state(size, registers)
    for height, width in [(224, 224), (518, 518), (224, 350), (532, 56)]:
        x = images(height, width)
        assert difference(network(x), reference(state, x)) < 1e-5


@pytest.mark.parametrize("antialias", [False, True])
def test_resampling_another_shape_of_as_many_patches_and_another_type(antialias: bool) -> None:
    grid = torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(3))
    vertical, horizontal = bicubic(4, 2, antialias), bicubic(4, 8, antialias)
    expected = torch.einsum("ri,cj,ijd->rcd", vertical, horizontal, grid.double().view(4, 4, 5)).reshape(1, 16, 5)
    assert difference(resample_positions(grid, 2, 8, antialias=antialias), expected) < 1e-6
    half = grid.bfloat16()
    in_float32 = resample_positions(half.float(), 2, 8, antialias=antialias).bfloat16()
    assert torch.equal(resample_positions(half, 2, 8, antialias=antialias), in_float32)
    assert resample_positions(grid, 4, 4, antialias=antialias) is grid


@pytest.mark.parametrize(("size", "registers"), VARIANTS)
def test_official_and_timm_files_give_equal_features(tmp_path: Path, size: str, registers: bool) -> None:
    timm_state = timm_loaded(size, registers).state_dict()
    save_file(timm_state, tmp_path / "model.safetensors")
    torch.save(timm_state, tmp_path / "pytorch_model.bin")
    expected = narrow(official_file(tmp_path, size, registers), size, registers)(images(224, 224))
    for name in ("model.safetensors", "pytorch_model.bin"):
        assert torch.equal(narrow(tmp_path / name, size, registers)(images(224, 224)), expected)


def test_timm_resamples_otherwise_without_registers_only(tmp_path: Path) -> None:
    def distance(registers: bool, pixels: int) -> float:
        ours, x = narrow(official_file(tmp_path, "b", registers), "b", registers), images(pixels, pixels)
        return difference(timm_loaded("b", registers)(x), ours(x))

    assert distance(registers=False, pixels=224) > 1e-4
    assert distance(registers=False, pixels=518) < 1e-6
    assert distance(registers=True, pixels=224) < 1e-6


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_full_size_is_that_of_timm_and_of_the_official_file(size: str, registers: bool) -> None:
    with torch.device("meta"):
        ours, theirs = build(size, registers), timm_model(size, registers)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert repr(ours.blocks) == repr(theirs.blocks)  # epsilon and activation too
    width, depth, _ = SIZES[size]
    assert all(block.attn.num_heads == width // 64 for block in ours.blocks)
    official = official_shapes(size, registers, width, depth)
    unused = width + width * registers  # the mask token; the position of CLS, which timm adds to the token
    assert sum(map(math.prod, official.values())) == sum(map(math.prod, shapes.values())) + unused


def test_end_to_end(tmp_path: Path) -> None:
    state = random_state("s", registers=False, width=384, depth=12)
    torch.save(state, tmp_path / "any name.pth")
    backbone = create_backbone("dinov2_vits14", weights=tmp_path / "any name.pth")
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    normalised = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert (backbone.embed_dim, backbone.image_size, backbone.licence) == (384, 224, "Apache-2.0")
    assert difference(backbone(x), reference(state, normalised, heads=6)) < 1e-5


def test_positions_are_resampled_once_and_kept_out_of_the_state_dict(tmp_path: Path) -> None:
    network = narrow(official_file(tmp_path, "b", registers=False), "b", registers=False)
    names = set(network.state_dict())
    network(images(224, 224))
    first = network._patch_positions(16, 16)
    network(images(28, 42))
    assert network._patch_positions(16, 16) is first
    assert set(network.state_dict()) == names


def test_positions_follow_moves_and_new_weights(tmp_path: Path) -> None:
    path, x = official_file(tmp_path, "b", registers=False), images(28, 42)
    network = narrow(path, "b", registers=False)
    before = network(x)
    assert network.double()(x.double()).dtype == torch.float64
    assert difference(network(x.double()), before) < 1e-5
    assert network.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    network.float()(x)
    torch.save({name: 2 * tensor for name, tensor in random_state("b", registers=False).items()}, path)
    load(network, path)
    assert torch.equal(network(x), narrow(path, "b", registers=False)(x))
    assert difference(network(x), before) > 1e-2
    torch.nn.ModuleList([network]).to("meta")
    assert network(x.to("meta")).is_meta


def test_positions_made_in_inference_mode_or_autocast_serve_a_gradient(tmp_path: Path) -> None:
    path = official_file(tmp_path, "b", registers=False)
    network, fresh = narrow(path, "b", registers=False), narrow(path, "b", registers=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        network(images(28, 42))
    assert not network._patch_positions(2, 3).is_inference()
    gradients = []
    for model in (network, fresh):
        x = images(28, 42).requires_grad_()
        model(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_positions_can_be_trained() -> None:
    network, copy = (build("b", registers=False, **NARROW, weight_init="") for _ in range(2))
    network(images(28, 42)).sum().backward()
    torch.optim.SGD([network.pos_embed], lr=1.0).step()
    copy.load_state_dict(network.state_dict())
    assert network.pos_embed.grad.abs().sum() > 0
    assert torch.equal(network(images(28, 42)), copy(images(28, 42)))


@pytest.mark.parametrize("shape", [(224, 225), (13, 14)])
def test_refuses_other_image_sizes(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"image size {shape[0]} x {shape[1]}: DINOv2 needs multiples of 14 pixels"):
        build("b", registers=False, **NARROW)(images(*shape))


class Code:
    """An object whose unpickling would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.marker), "w")


def refused(path: Path, network: nn.Module) -> str:
    """The one line with which loading fails."""
    with pytest.raises(UserError) as caught:
        load(network, path)
    line = str(caught.value)
    assert line.startswith(f"--backbone.weights={path}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "marker"
    torch.save({"cls_token": Code(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert "refused: holds the Python object io.open, which could run code" in refused(path, nn.Identity())
    path.write_bytes(pickle.dumps(Code(marker), protocol=2))
    assert "refused: holds the Python object io.open" in refused(path, nn.Identity())
    path.write_bytes(pickle.dumps(Code(marker)))
    assert "neither PyTorch nor safetensors" in refused(path, nn.Identity())
    assert not marker.exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path, network = tmp_path / "weights", build("b", registers=False, **NARROW)
    advice = r"Give the official \.pth or timm's model\.safetensors\.$"
    contents: dict[str, object] = {
        rf"not a plain table of tensors \(found model, epoch\)\. {advice}": {"model": {}, "epoch": 3},
        rf"not a plain table of tensors \(found list\)\. {advice}": [1],
        rf"official names or timm's \(found embeddings\.cls_token\)\. {advice}": {
            "embeddings.cls_token": torch.ones(1)
        },
        rf"official names or timm's \(found nothing\)\. {advice}": {},
    }
    for message, content in contents.items():
        torch.save(content, path)
        assert re.search(message, refused(path, network))
    for suffix, save in ((".pth", torch.save), (".safetensors", save_file)):
        whole = tmp_path / f"whole{suffix}"
        save(random_state("b", registers=False), whole)
        path.write_bytes(whole.read_bytes()[:5000])
        assert re.search(rf"damaged or cut short \(\w+\)\. {advice}", refused(path, network))
    path.write_bytes(b"<!DOCTYPE html>")
    assert re.search(
        rf"neither PyTorch nor safetensors weights \(begins with b'<!.*'\)\. {advice}", refused(path, network)
    )
    path.write_bytes(b"")
    assert "(begins with b'')" in refused(path, network)
    assert "cannot be read (Is a directory)" in refused(tmp_path, network)
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "absent", network)


def test_another_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = random_state("s", registers=False, width=384, depth=12)
    torch.save(state, path)
    with torch.device("meta"):
        base, small_with_registers = build("b", registers=False), build("s", registers=True)
    assert (
        "holds dinov2_vits14 (width 384, 12 blocks, 0 registers), "
        "this backbone is dinov2_vitb14 (width 768, 12 blocks, 0 registers) "
        "(cls_token has shape (1, 1, 384), not (1, 1, 768)). "
        "Choose the --backbone.name of the file, or another file."
    ) in refused(path, base)
    assert "this backbone is dinov2_vits14_reg (width 384, 12 blocks, 4 registers)" in refused(
        path, small_with_registers
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("norm.bias"), "norm.bias is missing"),
        (lambda state: state.update({"head.bias": torch.ones(1)}), "head.bias has no place"),
        (
            lambda state: state.update(pos_embed=torch.zeros(1, 257, 48)),
            "pos_embed has shape (1, 257, 48), not (1, 1370, 48)",
        ),
    ],
)
def test_loading_is_strict(tmp_path: Path, change: Callable[[State], object], fault: str) -> None:
    state = random_state("b", registers=False)
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    line = refused(tmp_path / "weights.pth", build("b", registers=False, **NARROW))
    assert f"incomplete or changed: {fault}. Give the official .pth" in line


def test_specs() -> None:
    assert set(REGISTERED) == {f"dinov2_vit{size}14{suffix}" for size in "sblg" for suffix in ("", "_reg")}
    assert set(REGISTERED) <= set(BACKBONES.names())
    plain, registers = REGISTERED["dinov2_vitb14"].weights, REGISTERED["dinov2_vitb14_reg"].weights
    address = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/"
    assert (plain.what, plain.flag) == ("DINOv2 ViT-B/14 weights", "--backbone.weights")
    assert (plain.source, plain.places[0].name) == (
        f"{address}dinov2_vitb14_pretrain.pth",
        "dinov2_vitb14_pretrain.pth",
    )
    assert registers.what == "DINOv2 ViT-B/14 weights (with registers)"
    assert registers.source == f"{address}dinov2_vitb14_reg4_pretrain.pth"
    assert registers.places[0].name == "dinov2_vitb14_reg4_pretrain.pth"


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from synthicl.backbones import BACKBONES; "
        "assert 'dinov2_vitg14_reg' in BACKBONES.names(); "
        "print(sorted({'torch', 'timm', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    root = Path(synthicl.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
