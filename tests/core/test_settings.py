import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from synthicl.core.errors import UserError
from synthicl.core.settings import Layer, RunSettings, of_run, of_subject

NAMES = "data: {name: digits, root: here}\nbackbone: {name: mini}\n"


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run."""
    (tmp_path / "config.yaml").write_text(NAMES)
    (tmp_path / "context.safetensors").touch()
    return tmp_path


def test_settings_of_a_run(run):
    (run / "config.yaml").write_text(
        NAMES + "tabicl: {model_path: my.ckpt, n_estimators: 4, candidates: [raw]}\n"
        "model: {lr: 1, images: {size: 32}, views: {augmentation: {flip: 0.0, area: [0.6, 1.0]}}}\nrandom_draws: 3\n"
    )
    settings = of_run(run)
    assert (settings.data.name, settings.data.root, settings.data.num_workers) == ("digits", Path("here"), 0)
    assert (settings.backbone.name, settings.backbone.weights) == ("mini", None)
    assert (settings.tabicl.checkpoint, settings.tabicl.model_path) == ("mini", Path("my.ckpt"))
    assert (settings.tabicl.preprocessing, settings.tabicl.n_estimators) == ("auto", 4)
    assert settings.tabicl.candidates == ("raw",)
    assert (settings.image_size, settings.crop_size, settings.random_draws) == (32, None, 3)
    assert settings.augmentation == {"flip": 0.0, "area": [0.6, 1.0]}
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml is missing\. Name the folder of a run, such as outputs/"):
        of_run(run)


def test_what_a_run_left_open_has_the_defaults(run):
    """Runs from before a setting existed do not say it; null is said where it was left open."""
    (run / "config.yaml").write_text(NAMES + "tabicl: {checkpoint: null}\nmodel: {views: {augmentation: null}}")
    settings = of_run(run)
    assert settings.tabicl.checkpoint == "mini"
    assert settings.augmentation == {}
    assert settings.random_draws == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: {name: digits}", r"config\.yaml: backbone\.name is missing\."),
        ("backbone: {name: mini}", r"config\.yaml: data\.name is missing\."),
        (NAMES + "random_draws: some", r"config\.yaml: random_draws: 'some' must be a whole number\."),
        (NAMES + "model: {images: {size: 1.5}}", r"config\.yaml: model\.images\.size: 1\.5 must be a whole number\."),
        (NAMES + "model: {images: {size: true}}", r"config\.yaml: model\.images\.size: True must be a whole number\."),
        (NAMES + "tabicl: {preprocessing: 1}", r"config\.yaml: tabicl\.preprocessing: 1 must be a text\."),
        (NAMES + "tabicl: {candidates: raw}", r"config\.yaml: tabicl\.candidates: 'raw' must be a list of texts\."),
        (
            "data: {name: digits, root: [1]}\nbackbone: {name: mini}",
            r"config\.yaml: data\.root: \[1\] must be a text\.",
        ),
        ("- 1", r"config\.yaml: holds no settings"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_name(run, content, message):
    (run / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        of_run(run)
    assert "\n" not in str(caught.value)


def test_a_flag_that_is_wrong_is_named():
    with pytest.raises(UserError, match=r"^--data\.split_seed=x must be a whole number\.$"):
        of_subject("digits", {"data.split_seed": "x"})


def test_later_layers_win():
    settings = RunSettings.read(
        Layer({"data.name": "a", "backbone.name": "b", "data.num_workers": 1}), Layer({"data.name": "c"})
    )
    assert (settings.data.name, settings.backbone.name, settings.data.num_workers) == ("c", "b", 1)


def test_split_of_a_run(run):
    """A run from before the seed could be chosen has 0."""
    assert of_subject(str(run), {})[1].data.split_seed == 0
    (run / "config.yaml").write_text("data: {name: digits, split_seed: 4}\nbackbone: {name: mini}")
    assert of_subject(str(run), {})[1].data.split_seed == 4
    with pytest.raises(
        UserError, match=r"^--data\.split_seed=5: .* has its own, which is what is scored\. Leave it out"
    ):
        of_subject(str(run), {"data.split_seed": 5})
    assert of_subject("digits", {"data.split_seed": 5})[1].data.split_seed == 5


def test_files_may_lie_elsewhere(run):
    given = {"data.root": "there", "backbone.weights": "w.pth", "tabicl.model_path": None}
    settings = of_subject(str(run), given)[1]
    assert (settings.data.root, settings.backbone.weights) == (Path("there"), Path("w.pth"))


def test_a_context_set_alone_names_dataset_backbone_and_checkpoint(tmp_path):
    def write(**about):
        header = {"format": "synthicl context set 2", "class_names": '["a"]', "checksum": ""}
        preprocessing = json.dumps({"name": "raw", "n_estimators": 8})
        metadata = header | {"preprocessing": preprocessing, "metadata": json.dumps(about)}
        save_file({"x": np.zeros(1)}, tmp_path / "context.safetensors", metadata=metadata)

    write(dataset="digits", backbone="mini_conv", tabicl_checkpoint="mini_1", split_seed=3)
    folder, settings = of_subject(str(tmp_path), {})
    assert folder == tmp_path
    assert (settings.data.name, settings.data.split_seed, settings.backbone.name) == ("digits", 3, "mini_conv")
    assert (settings.tabicl.checkpoint, settings.tabicl.n_estimators, settings.image_size) == ("mini_1", 4, 32)
    write(dataset="digits")
    with pytest.raises(UserError, match=r"does not say what it was made of \(no backbone, tabicl_checkpoint\)"):
        of_subject(str(tmp_path), {})
    (tmp_path / "context.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"not a context set, or damaged"):
        of_subject(str(tmp_path), {})


def test_a_dataset_alone_is_evaluated_with_what_a_run_of_it_starts_from():
    folder, settings = of_subject("groceries", {"tabicl.n_estimators": "2"})
    assert folder == Path("outputs/groceries/evaluation/efficientnet_lite0")
    assert (settings.tabicl.n_estimators, settings.image_size) == (2, 128)
    assert settings.augmentation == {"area": [0.3, 1.0], "noise_std": 0.1}
