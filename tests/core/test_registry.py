import importlib
import sys

import pytest

from synthicl import coresets, probes
from synthicl.backbones import backbone_spec, models
from synthicl.core.errors import UserError
from synthicl.core.registry import lookup, registered
from synthicl.data import datasets
from synthicl.data.datasets import dataset_spec


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "zoo_of_test_registry"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "cats.py").write_text("REGISTERED = {'lion': 1, 'tiger': 2}")
    (folder / "plain.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(folder.name)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_new_file_is_found_by_itself(package, tmp_path):
    assert registered(package) == {"lion": 1, "tiger": 2}
    (tmp_path / "zoo_of_test_registry" / "dogs.py").write_text("REGISTERED = {'wolf': 3}")
    importlib.invalidate_caches()
    assert registered(package) == {"lion": 1, "tiger": 2, "wolf": 3}
    assert lookup(package, "wolf", "--animal") == 3


def test_message_lists_the_names(package):
    with pytest.raises(UserError, match=r"^--animal=cow: unknown\. Choose one of: lion, tiger\.$"):
        lookup(package, "cow", "--animal")


def test_what_the_package_ships():
    assert set(registered(datasets)) >= {
        "digits",
        "folder",
        "groceries",
        "imagenette",
        "imagenette-160",
        "imagenette-320",
    }
    assert set(registered(models)) >= {"mini", "mini_conv", "dinov2_vitb14", "efficientnet_lite0"}
    assert set(registered(coresets)) >= {"random", "centroid", "class_mean", "all"}
    assert set(registered(probes)) >= {"tabicl", "linear"}


def test_message_for_unknown_components():
    with pytest.raises(UserError, match=r"^--data\.name=digit: unknown\. Choose one of: digits, folder"):
        dataset_spec("digit")
    with pytest.raises(UserError, match=r"^--backbone\.name=resnet: unknown\. Choose one of: .*mini"):
        backbone_spec("resnet")


def test_every_component_states_its_licence_and_flag(tmp_path):
    for spec in registered(datasets).values():
        assert spec.licence
        assert all(asset.flag == "--data.root" for asset in spec.assets(tmp_path))
    for spec in registered(models).values():
        assert spec.licence
        assert spec.weights.flag == "--backbone.weights"
        assert spec.weights_asset("mine.pth").places[0].name == "mine.pth"
