import importlib
import subprocess
import sys

import pytest

from synthicl.backbones import BACKBONES, backbone_spec
from synthicl.core.errors import UserError
from synthicl.core.registry import Registry, instance_of, takes
from synthicl.coresets import CORESETS
from synthicl.data.datasets import DATASETS, dataset_spec
from synthicl.probes import PROBES
from synthicl.studies import STUDIES

GROUP = "synthicl.tests.animals"


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A registry of whole numbers whose room is a package in a folder."""
    folder = tmp_path / "zoo_of_test_registry"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "cats.py").write_text("REGISTERED = {'tiger': 2, 'lion': 1}\nOPTIONAL = {'sphinx': 5}")
    (folder / "plain.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry(folder.name, GROUP, "--animal", "a whole number", instance_of(int))
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path):
    """A function that makes a distribution with entry points visible, as an installer would, beside the room."""

    def write(distribution, **entries):
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))

    return write


def test_a_new_file_is_found_by_itself(zoo, tmp_path):
    assert zoo.names() == ["tiger", "lion"]
    (tmp_path / "zoo_of_test_registry" / "dogs.py").write_text("REGISTERED = {'wolf': 3}")
    importlib.invalidate_caches()
    assert zoo.names() == ["tiger", "lion", "wolf"]
    assert zoo.get("wolf") == 3


def test_what_is_optional_is_there_for_who_asks(zoo):
    assert "sphinx" not in zoo.names()
    assert "sphinx" in zoo.names(optional=True)
    assert zoo.get("sphinx") == 5


def test_another_package_is_imported_when_its_component_is_asked_for(zoo, install, tmp_path):
    (tmp_path / "aviary_of_test_registry.py").write_text("owl = 7")
    install("aviary", owl="aviary_of_test_registry:owl", emu="aviary_of_test_registry:emu")
    assert zoo.names() == ["tiger", "lion", "emu", "owl"]
    assert zoo.get("lion") == 1
    assert "aviary_of_test_registry" not in sys.modules
    assert zoo.get("owl") == 7
    del sys.modules["aviary_of_test_registry"]


def test_message_lists_the_names_of_every_package(zoo, install):
    install("aviary", owl="aviary:owl")
    with pytest.raises(UserError, match=r"^--animal=cow: unknown\. Choose one of: lion, owl, sphinx, tiger\.$"):
        zoo.get("cow")
    with pytest.raises(UserError, match=r"^--pet=cow: unknown"):
        zoo.get("cow", "--pet")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere:owl", r"nowhere:owl of aviary cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\)"),
        ("math:owl", r"math:owl of aviary cannot be imported \(AttributeError: .*'owl'\)"),
        ("math:pi", r"math:pi of aviary is not a whole number"),
        ("math", r"math of aviary is not a whole number"),
    ],
)
def test_message_for_a_package_that_is_broken(zoo, install, value, message):
    install("aviary", owl=value)
    with pytest.raises(UserError, match=rf"^--animal=owl: {message}\. Mend or uninstall aviary\.$"):
        zoo.get("owl")
    assert zoo.get("lion") == 1  # whoever does not ask for it does not hear of it


def test_message_for_a_file_of_this_package_that_is_wrong(zoo, tmp_path):
    (tmp_path / "zoo_of_test_registry" / "dogs.py").write_text("REGISTERED = {'wolf': 'grey'}")
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"^--animal=wolf: zoo_of_test_registry\.dogs is not a whole number\. Mend it"):
        zoo.get("wolf")


def test_message_for_a_name_that_two_packages_claim(zoo, install):
    install("aviary", owl="aviary:owl", lion="aviary:lion")
    install("forest", owl="forest:owl")
    with pytest.raises(
        UserError, match=r"^--animal=owl: stands for aviary:owl of aviary and for forest:owl of forest\."
    ):
        zoo.get("owl")
    with pytest.raises(
        UserError, match=r"=lion: stands for zoo_of_test_registry\.cats and for aviary:lion of aviary\."
    ):
        zoo.get("lion")
    assert zoo.names() == ["tiger", "lion", "owl"]


def test_functions_are_told_apart_by_what_they_take():
    assert takes(lambda setting: None, 1)
    assert takes(lambda train, ipc, seed=0: None, 3)
    assert not takes(lambda: None, 1)
    assert not takes(lambda z, y, ipc, seed: None, 3)
    assert not takes("no function", 1)


def test_what_the_package_ships():
    assert set(DATASETS.names()) >= {"digits", "folder", "groceries", "imagenette", "imagenette-160", "imagenette-320"}
    assert set(BACKBONES.names()) >= {"mini", "mini_conv", "dinov2_vitb14", "efficientnet_lite0"}
    assert set(CORESETS.names()) >= {"random", "centroid", "class_mean", "all"}
    assert set(STUDIES.names()) >= {"compare", "scaling", "few-shot", "transfer", "boundary", "icl-vs-gd", "privacy"}
    for registry in (DATASETS, BACKBONES, CORESETS, PROBES, STUDIES):
        for name in registry.names(optional=True):
            registry.get(name)


def test_message_for_unknown_components():
    with pytest.raises(UserError, match=r"^--data\.name=digit: unknown\. Choose one of: digits, folder"):
        dataset_spec("digit")
    with pytest.raises(UserError, match=r"^--backbone\.name=resnet: unknown\. Choose one of: .*mini"):
        backbone_spec("resnet")


def test_every_component_states_its_licence_and_flag(tmp_path):
    for spec in map(DATASETS.get, DATASETS.names()):
        assert spec.licence
        assert all(asset.flag == "--data.root" for asset in spec.assets(tmp_path))
    for spec in map(BACKBONES.get, BACKBONES.names()):
        assert spec.licence
        assert spec.weights.flag == "--backbone.weights"
        assert spec.weights_asset("mine.pth").places[0].name == "mine.pth"


def test_datasets_and_backbones_are_known_without_torch():
    code = (
        "import sys; from synthicl.backbones import BACKBONES; from synthicl.data.datasets import DATASETS; "
        "[DATASETS.get(name) for name in DATASETS.names()]; [BACKBONES.get(name) for name in BACKBONES.names()]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
