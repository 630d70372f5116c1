"""What can be said before anything heavy is imported: unknown names and missing files, within seconds.

The full parser needs torch, which takes many seconds to import. This one reads only the few settings that say which
dataset, backbone and TabICL checkpoint a run needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from synthicl.backbones import backbone_spec
from synthicl.core.assets import Asset, out_of_reach, require
from synthicl.core.errors import UserError
from synthicl.core.registry import plugins
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.data.datasets import dataset_spec
from synthicl.tabicl.checkpoint import checkpoint_asset

CONFIGS = Path(__file__).parents[2] / "configs"
INSTALLED_BACKBONE = "efficientnet_lite0"  # for photographs; its weights are a Python package


def config_names(kind: str) -> list[str]:
    """Names of the configuration files of a kind, such as ``data`` or ``objective``."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def expand(args: list[str]) -> list[str]:
    """Write out short forms.

    ``--model.objective=lgm`` is short for ``-c configs/objective/lgm.yaml`` in its place; the file names the class.
    An objective of another package is short for its class.
    What a configuration file's ``include`` names, relative to ``configs/``, comes before the file itself. What goes on
    with a checkpoint (``--ckpt_path``) starts from the configuration of its run, and flags win over that.

    Raises:
        UserError: there is no such objective, file or checkpoint.
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
            expanded += _named_objective(value)
        elif flag == "--include":
            raise UserError(f"{argument}: only a configuration file includes another. Name the file with -c.")
        elif flag in {"-c", "--config"}:
            expanded += [
                part for file in with_included(Path(value or next(arguments, ""))) for part in ("-c", str(file))
            ]
        else:
            expanded.append(argument)
    checkpoint = settings(expanded).get("ckpt_path")
    if checkpoint:
        config = Path(checkpoint).resolve().parent.parent / "config.yaml"
        if not Path(checkpoint).is_file():
            raise UserError(
                f"--ckpt_path={checkpoint}: no such file. Checkpoints lie in outputs/*/version_*/checkpoints/."
            )
        if not config.is_file():
            raise UserError(f"--ckpt_path={checkpoint}: {config} is missing, which says what the run was made with.")
        expanded[1:1] = ["-c", str(config)]
    return expanded


def _named_objective(name: str) -> list[str]:
    """What ``--model.objective=name`` is short for.

    Raises:
        UserError: there is no such objective, or two.
    """
    ours, theirs = config_names("objective"), [plugin.name for plugin in plugins("synthicl.objectives")]
    if name in theirs:
        if name in ours:
            raise UserError(
                f"--model.objective={name}: is in {CONFIGS / 'objective'} and in another package. Rename one."
            )
        # torch is imported here, because the module of another package's objective needs it anyway.
        from synthicl.objectives import OBJECTIVES

        found = OBJECTIVES.get(name)
        return [f"--model.objective={found.__module__}.{found.__qualname__}"]
    if name not in ours:
        known = ", ".join(sorted({*ours, *theirs}))
        raise UserError(f"--model.objective={name}: unknown objective. Choose one of: {known}.")
    return ["-c", str(CONFIGS / "objective" / f"{name}.yaml")]


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
            for file in with_included(Path(value)):
                found |= _flatten(_read(file))
        else:
            found[flag.lstrip("-")] = None if value == "null" else value
    return found


def with_included(file: Path) -> list[Path]:
    """A configuration file after those that it includes, and that they include.

    Raises:
        UserError: a file is missing or is not YAML, or ``include`` is not a list of file names.
    """
    included = _read(file).get("include") or []
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise UserError(f"-c {file}: include must be a list of files in {CONFIGS}, such as [recipe/photographs.yaml].")
    return [*(path for name in included for path in with_included(CONFIGS / name)), file]


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


ELSEWHERE = {
    "data.root": "Where the images lie, if not where they lay before.",
    "backbone.weights": "Where the backbone's weights lie, likewise.",
    "tabicl.model_path": "Where TabICL's checkpoint lies, likewise.",
}
FOR_DATASETS = {
    "data.split_seed": "For a dataset alone: seed of the splits that it does not fix itself.",
    "backbone.name": "For a dataset alone: the backbone, if not the dataset's own.",
    "tabicl.checkpoint": "For a dataset alone: TabICL's checkpoint.",
    "tabicl.preprocessing": "For a dataset alone: TabICL's preprocessing, if val is not to choose it.",
    "tabicl.n_estimators": "For a dataset alone: members of TabICL's ensemble.",
}
DEFAULTS: dict[str, Any] = {
    "data.root": "data",
    "data.num_workers": 0,
    "data.split_seed": 0,
    "backbone.weights": None,
    "tabicl.checkpoint": "mini",
    "tabicl.model_path": None,
    "tabicl.preprocessing": "auto",
    "tabicl.n_estimators": None,
    "random_draws": 50,
}


def subject_config(what: str, given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The folder and the settings of what is to be evaluated.

    Args:
        what: folder of a run, folder of a context set, or name of a dataset.
        given: settings that were asked for as dotted names, None where nothing was: `ELSEWHERE`, `FOR_DATASETS`.

    Returns:
        Folder, and settings as dotted names.

    Raises:
        UserError: it is none of the three, or a setting was given that the context set fixes.
    """
    folder, asked = Path(what), {flag: value for flag, value in given.items() if value is not None}
    if folder.is_symlink():  # ``latest`` may move while this runs
        folder = folder.parent / folder.readlink()
    if (folder / CONTEXT_FILE).is_file():
        for flag in FOR_DATASETS:
            if flag in asked:
                raise UserError(f"--{flag}={asked[flag]}: {what} has its own, which is what is scored. Leave it out.")
        if (folder / "config.yaml").is_file():
            return folder, DEFAULTS | run_config(folder) | asked
        about = context_metadata(folder)
        if missing := {"dataset", "backbone", "tabicl_checkpoint"} - set(about):
            raise UserError(
                f"{folder}: the context set does not say what it was made of (no {', '.join(sorted(missing))}), so "
                "there is nothing to evaluate it on. Name the folder of a run or of an exported context set."
            )
        own = {
            "data.name": about["dataset"],
            "data.split_seed": about.get("split_seed", 0),
            "backbone.name": about["backbone"],
            "tabicl.checkpoint": about["tabicl_checkpoint"],
        }
        return folder, DEFAULTS | _dataset_config(about["dataset"]) | own | asked
    if what in config_names("data"):
        config = DEFAULTS | _dataset_config(what) | asked
        return Path("outputs") / what / "evaluation" / config["backbone.name"], config
    if (folder / "config.yaml").is_file():
        raise UserError(
            f"{what}: this run has not come to its end ({folder} has no {CONTEXT_FILE}). It goes on from its last "
            f"checkpoint with make distill CKPT={folder}/checkpoints/last.ckpt."
        )
    known = ", ".join(config_names("data"))
    raise UserError(
        f"{what}: neither a folder with a context set ({CONTEXT_FILE}, made by a finished run) nor a dataset. "
        f"Name a folder such as outputs/digits/latest, or one of: {known}."
    )


def _dataset_config(name: str) -> dict[str, Any]:
    """What ``make distill DATASET=name`` would start from; another package's dataset has no file here."""
    files = [CONFIGS / "default.yaml", *([CONFIGS / "data" / f"{name}.yaml"] if name in config_names("data") else [])]
    return settings([part for file in files for part in ("-c", str(file))])


def context_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a context set, without importing torch.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CONTEXT_FILE
    try:
        with safe_open(path, "np") as file:
            metadata: dict[str, Any] = json.loads(file.metadata()["metadata"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a context set, or damaged ({error}). Run the distillation again.") from error
    return metadata


def check_evaluation(args: list[str]) -> None:
    """Check what a command line of ``evaluate.py`` names; what the parser will refuse is left to it.

    Raises:
        UserError: one line for each thing that is missing.
    """
    if len(args) < 2 or {"-h", "--help"} & set(args):
        return
    given = settings(args[1:])
    positional = [argument for argument in args[1:] if not argument.startswith("-")]
    if positional and args[1] == positional[0]:
        what = positional[0]
        if args[0] == "predict":  # needs no dataset; what a set of bare vectors lacks is said when it is opened
            if (Path(what) / CONTEXT_FILE).is_file() and "backbone" in context_metadata(Path(what)):
                _, config = subject_config(what, {flag: given.get(flag) for flag in ELSEWHERE})
                check({name: value for name, value in config.items() if name != "data.name"})
            return
        check(subject_config(what, {flag: given.get(flag) for flag in (*ELSEWHERE, *FOR_DATASETS)})[1])


def check_training(found: Mapping[str, Any]) -> None:
    """`check` for a run that is to begin or to go on; one that begins may choose a backbone that is on disk.

    Args:
        found: settings as dotted names.

    Raises:
        UserError: one line for each thing that is missing, and one that names that backbone, if it is on disk and a
            backbone that would be downloaded is missing.
    """
    missing = out_of_reach(needed(found))
    lines = [asset.missing_line() for asset in missing]
    downloaded = any(asset.flag == "--backbone.weights" and asset.source for asset in missing)
    if downloaded and not found.get("ckpt_path") and backbone_spec(INSTALLED_BACKBONE).weights.find():
        lines.append(
            f"No download is needed with -c configs/backbone/{INSTALLED_BACKBONE}.yaml: a network for photographs that "
            "is installed, and the bundled TabICL."
        )
    if lines:
        raise UserError("\n".join(lines))


def check(found: Mapping[str, Any]) -> None:
    """Check that the names are known and that every file is there or can be downloaded.

    Args:
        found: settings as dotted names.

    Raises:
        UserError: one line for each thing that is missing.
    """
    require(needed(found))


def needed(found: Mapping[str, Any]) -> list[Asset]:
    """The files that settings, as dotted names, ask for: images, weights of the backbone, TabICL's checkpoint.

    Raises:
        UserError: a name is unknown.
    """
    assets: list[Asset] = []
    if name := found.get("data.name"):
        assets += dataset_spec(name).assets(Path(found.get("data.root") or "data"))
    if name := found.get("backbone.name"):
        assets.append(backbone_spec(name).weights_asset(found.get("backbone.weights")))
    assets.append(checkpoint_asset(found.get("tabicl.checkpoint", "mini"), found.get("tabicl.model_path")))
    return assets
