import re

import pytest

from synthicl.core.configuration import (
    CONFIGS,
    config_names,
    default_files,
    find_config,
    read_config,
    read_settings,
    with_included,
)
from synthicl.core.errors import UserError


def named(*names):
    """What the configuration files of these names say, with what they include."""
    return read_settings([file for name in names for file in with_included(CONFIGS / f"{name}.yaml")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"-c .*x\.yaml: no such file\."),
        (b"a: [1", r"-c .*x\.yaml: not valid YAML \(.*\)\."),
        (b"\x89PNG\r\n", r"-c .*x\.yaml: not valid YAML \(.*\)\."),
        (b"- a", r"-c .*x\.yaml: holds no settings, which are written as 'name: value'\."),
    ],
)
def test_message_for_a_configuration_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_a_configuration_is_a_file_or_one_that_the_project_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = CONFIGS / "data" / "digits.yaml"
    assert find_config("data/digits") == find_config("data/digits.yaml") == shipped
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digits.yaml").touch()
    assert find_config("data/digits.yaml").resolve() == tmp_path / "data/digits.yaml"
    assert find_config("data/digits") == shipped
    with pytest.raises(UserError, match=r"^-c data/digitz: unknown dataset\. Choose one of: digits, .*imagenette"):
        find_config("data/digitz")
    with pytest.raises(UserError, match=r"^-c gone\.yaml: no such file, and none of that name in .*configs\.$"):
        find_config("gone.yaml")


def test_a_file_comes_after_what_it_includes(tmp_path, monkeypatch):
    monkeypatch.setattr("synthicl.core.configuration.CONFIGS", tmp_path)
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective" / "a.yaml").write_text("model: {lr: 1, views: 1, ipc: 1}")
    (tmp_path / "b.yaml").write_text("include: [objective/a.yaml]\nmodel: {lr: 2, views: 2}")
    (tmp_path / "c.yaml").write_text("include: [b.yaml]\nmodel: {lr: 3}")
    files = with_included(tmp_path / "c.yaml")
    assert files == [tmp_path / name for name in ("objective/a.yaml", "b.yaml", "c.yaml")]
    assert read_settings(files) == {"model.lr": 3, "model.views": 2, "model.ipc": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("include: [gone.yaml]", r"-c .*gone\.yaml: no such file\."),
        ("include: recipe/photographs.yaml", r"-c .*own\.yaml: include must be a list of files in .*configs, such as"),
        ("include: [1]", r"include must be a list of files"),
        ("include: [{own}]", r"-c .*own\.yaml: includes itself\."),
    ],
)
def test_includes_that_cannot_be_read_are_refused(tmp_path, content, message):
    own = tmp_path / "own.yaml"
    own.write_text(content.replace("{own}", str(own)))
    with pytest.raises(UserError, match=message):
        with_included(own)


@pytest.mark.parametrize("data", config_names("data"))
@pytest.mark.parametrize("objective", config_names("objective"))
def test_every_objective_fits_every_dataset(objective, data):
    """Without views there is nothing to vary in the bank."""
    found = named("default", f"data/{data}", f"objective/{objective}")
    assert found["model.views.number"] or not found.get("model.real.bank_views")


def test_the_default_objective_is_the_configuration_of_that_name():
    default, objective = read_settings(default_files()), named("objective/in_context_lgm")
    assert objective and objective.items() <= default.items()


@pytest.mark.parametrize("name", [name for name in config_names("data") if name != "digits"])
def test_photographs_share_a_recipe(name):
    """Those with more classes than TabICL has outputs have it without TabICL in the loop."""
    recipe, found = named("recipe/photographs"), named(f"data/{name}")
    if name in {"groceries-42", "groceries-81"}:
        recipe = {key: value for key, value in recipe.items() if not key.startswith("model.objective")}
        assert named("objective/lgm_views").items() <= found.items()
    assert recipe.items() <= found.items()


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("recipe/photographs_dinov2", ["folder", "imagenette", "imagenette-160", "imagenette-320"]),
        ("backbone/efficientnet_lite0", [name for name in config_names("data") if name.startswith("groceries")]),
    ],
)
def test_datasets_that_share_a_recipe_add_their_name_alone(recipe, names):
    for name in names:
        own = read_config(CONFIGS / "data" / f"{name}.yaml")
        assert set(own) == {"include", "data"}
        assert own["data"] == {"name": name}
        assert named(recipe).items() <= named(f"data/{name}").items()


def test_no_configuration_says_what_it_includes():
    for path in CONFIGS.rglob("*.yaml"):
        own, (*included, _) = read_settings([path]), with_included(path)
        repeated = read_settings(included).items() & {k: v for k, v in own.items() if not isinstance(v, list)}.items()
        assert not repeated, f"{path.name}: {repeated}"


def test_comments_name_files_that_exist():
    for path in CONFIGS.rglob("*.yaml"):
        for name in re.findall(r"configs/(\w+/\w+\.yaml)", path.read_text(encoding="utf-8")):
            assert (CONFIGS / name).is_file(), path
