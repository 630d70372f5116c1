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

MAX_BYTES = 2**20  # of a file of settings
MAX_VALUES = 10_000
MAX_BRACKETS = 1000


def config_names(kind: str) -> list[str]:
    """Names of the configuration files of a kind, such as ``data`` or ``objective``."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def find_config(name: str) -> Path:
    """The configuration file that ``-c`` names: a file, or one in `CONFIGS`, such as ``data/digits``.

    Raises:
        UserError: there is none.
    """
    places = [Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"]
    try:
        for place in places:
            if place.is_file():
                return place
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null byte
        raise UserError(f"-c {name[:100]}: cannot be a file ({error}). Name another.") from error
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
    return _tree(path, f"-c {path}", _text(path, f"-c {path}"))


def read_as_data(path: Path) -> dict[str, Any]:
    """The same for a file that came with somebody's run: plain values, without tags, and nothing said by reference.

    Raises:
        UserError: it is missing, is not a mapping in YAML, or has an alias or a tag.
    """
    text = _text(path, str(path))
    try:
        for token in yaml.scan(text, yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                kind = type(token).__name__.removesuffix("Token").lower()
                line = token.start_mark.line + 1
                raise UserError(f"{path}: line {line}: a YAML {kind}, which no run writes. Take it out.")
    except (yaml.YAMLError, RecursionError):
        pass  # said below
    return _tree(path, str(path), text)


def _text(path: Path, said: str) -> str:
    """The text of a configuration file."""
    try:
        if not path.is_file():
            raise UserError(f"{said}: no such file.")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{said}: holds over {MAX_BYTES} bytes, which settings do not. Name another file.")
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > MAX_BRACKETS:  # PyYAML's time grows with the square of their depth
            raise UserError(f"{said}: not valid YAML (over {MAX_BRACKETS} brackets). Write each value on its own line.")
        return text
    except UnicodeDecodeError as error:
        raise UserError(f"{said}: not valid YAML ({error}).") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{said}: cannot be read ({error}). Name another file.") from error


def _tree(path: Path, said: str, text: str) -> dict[str, Any]:
    """The settings in a text."""
    try:
        content = yaml.safe_load(text)
    except Exception as error:  # PyYAML's own, and whatever Python says of a date or a number that is none
        reason = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{said}: not valid YAML ({reason}).") from error
    if not isinstance(content, (dict, type(None))):
        raise UserError(f"{said}: holds no settings, which are written as 'name: value'.")
    # A few aliases of aliases stand for more values than any memory holds; one of itself, for endlessly many.
    values, found = [content], 0
    while values:
        value = values.pop()
        found += 1
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if found + len(inside) > MAX_VALUES:
            raise UserError(f"{said}: stands for over {MAX_VALUES} values, by its aliases. Write it out.")
        values += inside
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
