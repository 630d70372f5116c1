"""What can be said before anything heavy is imported: unknown names and missing files, within seconds.

The full parser needs torch, which takes many seconds to import. This one reads only the few settings that say which
dataset, backbone and TabICL checkpoint a run needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from synthicl.assets import require
from synthicl.backbones import backbone_spec
from synthicl.data.datasets import dataset_spec
from synthicl.errors import UserError
from synthicl.in_context.checkpoint import checkpoint_asset

CONFIGS = Path(__file__).parents[1] / "configs"


def config_names(kind: str) -> list[str]:
    """Names of the configuration files of a kind, such as ``data`` or ``objective``."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def expand(args: list[str]) -> list[str]:
    """Write out short forms.

    ``--model.objective=lgm`` is short for ``-c configs/objective/lgm.yaml`` in its place; the file names the class. A
    run that goes on (``--ckpt_path``) starts from the configuration it was begun with, and flags win over that.

    Raises:
        UserError: there is no such objective or checkpoint.
    """
    expanded: list[str] = []
    arguments = iter(args)
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--model.objective":
            value = value or next(arguments, "")
            if "." in value:  # the path of a class
                expanded.append(f"{flag}={value}")
                continue
            if value not in config_names("objective"):
                known = ", ".join(config_names("objective"))
                raise UserError(f"--model.objective={value}: unknown objective. Choose one of: {known}.")
            expanded += ["-c", str(CONFIGS / "objective" / f"{value}.yaml")]
        else:
            expanded.append(argument)
    checkpoint = settings(expanded).get("ckpt_path")
    if checkpoint and expanded[0] == "fit":
        config = Path(checkpoint).resolve().parent.parent / "config.yaml"
        if not Path(checkpoint).is_file():
            raise UserError(
                f"--ckpt_path={checkpoint}: no such file. Checkpoints lie in outputs/*/version_*/checkpoints/."
            )
        if not config.is_file():
            raise UserError(f"--ckpt_path={checkpoint}: {config} is missing, without which the run cannot go on.")
        expanded[1:1] = ["-c", str(config)]
    return expanded


def settings(args: list[str]) -> dict[str, Any]:
    """Settings of a command line as dotted names: of its configuration files and flags, later ones win.

    Raises:
        UserError: a configuration file is missing or is not YAML.
    """
    found: dict[str, Any] = {}
    arguments = iter(args)
    for argument in arguments:
        if not argument.startswith("-"):
            continue
        flag, equals, value = argument.partition("=")
        if not equals:
            value = next(arguments, "")
        if flag in {"-c", "--config"}:
            found |= _flatten(_read(Path(value)))
        else:
            found[flag.lstrip("-")] = None if value == "null" else value
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        if path.parent.name == "data":
            raise UserError(f"DATASET={path.stem}: unknown dataset. Choose one of: {', '.join(config_names('data'))}.")
        raise UserError(f"-c {path}: no such file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"-c {path}: not valid YAML ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def run_config(folder: Path) -> dict[str, Any]:
    """The settings a run was made with, as dotted names.

    Raises:
        UserError: the folder is not a run's.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: config.yaml is missing. Name the folder of a run, such as outputs/digits/latest.")
    return _flatten(_read(path))


def check(found: Mapping[str, Any]) -> None:
    """Check that the names are known and that every file is there or can be downloaded.

    Args:
        found: settings as dotted names.

    Raises:
        UserError: one line for each thing that is missing.
    """
    assets = []
    if name := found.get("data.name"):
        assets += dataset_spec(name).assets(Path(found.get("data.root") or "data"))
    if name := found.get("backbone.name"):
        assets.append(backbone_spec(name).weights_asset(found.get("backbone.weights")))
    assets.append(checkpoint_asset(found.get("tabicl.checkpoint", "mini"), found.get("tabicl.model_path")))
    require(assets)
