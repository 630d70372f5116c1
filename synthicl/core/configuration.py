"""Configuration files: where they lie, what they include, and what they say as dotted names. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from synthicl.core.errors import UserError

_PACKAGE = Path(__file__).parents[1]
# In a wheel they lie in the package; in a checkout, where people look for them, beside it.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def config_names(kind: str) -> list[str]:
    """Names of the configuration files of a kind, such as ``data`` or ``objective``."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def find_config(name: str) -> Path:
    """The configuration file that ``-c`` names: a file, or one in `CONFIGS`, such as ``data/digits``.

    Raises:
        UserError: there is none.
    """
    places = [Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"]
    for place in places:
        if place.is_file():
            return place
    if places[0].parent.name == "data":
        raise UserError(f"-c {name}: unknown dataset. Choose one of: {', '.join(config_names('data'))}.")
    raise UserError(f"-c {name}: no such file, and none of that name in {CONFIGS}.")


def with_included(file: Path, including: tuple[Path, ...] = ()) -> list[Path]:
    """A configuration file after those that it includes, and that they include.

    Args:
        file: a configuration file.
        including: those that led to it.

    Raises:
        UserError: a file is missing or is not YAML, or ``include`` is not a list of files, or is a circle.
    """
    if file in including:
        raise UserError(f"-c {file}: includes itself. Take it out of the list.")
    included = read_config(file).get("include") or []
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise UserError(f"-c {file}: include must be a list of files in {CONFIGS}, such as [recipe/photographs.yaml].")
    before = [path for name in included for path in with_included(CONFIGS / name, (*including, file))]
    return [*before, file]


def read_config(path: Path) -> dict[str, Any]:
    """What a configuration file says, as a tree.

    Raises:
        UserError: it is missing, or is not a mapping in YAML.
    """
    if not path.is_file():
        raise UserError(f"-c {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"-c {path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, (dict, type(None))):
        raise UserError(f"-c {path}: holds no settings, which are written as 'name: value'.")
    return content or {}


def read_settings(files: Iterable[Path]) -> dict[str, Any]:
    """What configuration files say as dotted names; later files win. What they include is not looked for."""
    found: dict[str, Any] = {}
    for file in files:
        found |= flattened(read_config(file))
    found.pop("include", None)
    return found


def flattened(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def default_files() -> list[Path]:
    """The files that every run starts from."""
    return with_included(CONFIGS / "default.yaml")
