"""What can be said before anything heavy is imported: unknown names and missing files, within a second.

The full parser needs torch, which takes many seconds to import. `synthicl.cli.command_line` reads the few settings that
say which dataset, backbone and TabICL checkpoint a run needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthicl.backbones import backbone_spec
from synthicl.core.assets import ONNX_PACKAGES, Asset, out_of_reach, require, require_packages
from synthicl.core.configuration import config_names
from synthicl.core.context_header import read_header
from synthicl.core.errors import UserError
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.core.settings import (
    ELSEWHERE,
    FOR_DATASETS,
    RunSettings,
    context_metadata,
    extended_run,
    of_subject,
    paths,
)
from synthicl.data.datasets import dataset_spec
from synthicl.probes.supplied import PACKAGES, supplied
from synthicl.tabicl.checkpoint import checkpoint_asset

WORDS = {"predict": 3, "demo": 2, "export": 2, "publish": 3}  # of a tool's command line, its name included
INSTALLED_BACKBONE = "efficientnet_lite0"  # for photographs; its weights are a Python package


def check_evaluation(words: Sequence[str], flags: Mapping[str, str | None]) -> None:
    """Check what a command line of a study or a tool names; what the parser will refuse is left to it.

    Args:
        words: the command, and what it is asked of.
        flags: by dotted name.

    Raises:
        UserError: one line for each thing that is missing.
    """
    if len(words) < 2:
        raise UserError(f"{words[0]}: a subject is required. Name a folder, such as outputs/digits/latest.")
    command, what = words[:2]
    if len(words) > WORDS.get(command, len(words)):
        raise UserError(
            f"{words[WORDS[command]]}: one word too many. The value of a flag is written with =, as in --reject=0.9."
        )
    if command == "export":
        check_export(flags)
    if command == "demo":
        require_packages("demo", "demo", "gradio")
    if command == "publish":
        check_publication(words)
    elif command not in WORDS:
        _, settings = of_subject(what, {flag: flags.get(flag) for flag in (*ELSEWHERE, *FOR_DATASETS)})
        check(named(settings))
    elif (Path(what) / CONTEXT_FILE).is_file() and "backbone" in context_metadata(Path(what)):
        # It needs no dataset. What a set of bare vectors lacks is said when it is opened.
        _, settings = of_subject(what, {flag: flags.get(flag) for flag in ELSEWHERE})
        check(named(settings) | {"data.name": None})
    for name in re.findall(r"\w+", str(flags.get("probes"))):
        if name in PACKAGES:
            supplied(name)


def check_export(flags: Mapping[str, str | None]) -> None:
    """Check that ``export`` is told what to write, into files of their own.

    Raises:
        UserError: it is not, or a package is missing.
    """
    asked = [f"--{name}" for name in ("onnx", "student") if name in flags]
    if not asked:
        raise UserError("export: what to write is missing. Give --onnx or --student, or --onnx=FILE, --student=FILE.")
    for name in flags:
        if name.startswith("student_") and "--student" not in asked:
            raise UserError(
                f"--{name}={flags[name]}: is for --student, which is not asked for. Add it, or leave this out."
            )
    onnx, student = flags.get("onnx"), flags.get("student")
    if onnx and student and Path(onnx).absolute() == Path(student).absolute():
        raise UserError(f"--student={student}: is the file that --onnx names. Name another, for example student.onnx.")
    require_packages(asked[0], "onnx", *ONNX_PACKAGES)


def check_publication(words: Sequence[str]) -> None:
    """Check that ``publish`` names a context set and a repository.

    Raises:
        UserError: it does not.
    """
    if len(words) < 3:
        raise UserError("publish: a repository is required. Write synthicl publish outputs/digits/latest user/name.")
    read_header(Path(words[1]))


def named(settings: RunSettings) -> dict[str, Any]:
    """What `check` looks at."""
    return {
        "data.name": settings.data.name,
        "data.root": settings.data.root,
        "data.more": settings.data.more,
        "backbone.name": settings.backbone.name,
        "backbone.weights": settings.backbone.weights,
        "tabicl.checkpoint": settings.tabicl.checkpoint,
        "tabicl.model_path": settings.tabicl.model_path,
    }


def check_training(found: Mapping[str, Any]) -> None:
    """`check` for a run that is to begin or to resume; one that begins may choose a backbone that is on disk.

    Args:
        found: settings as dotted names.

    Raises:
        UserError: one line for each thing that is missing, and one that names that backbone, if it is on disk and a
            backbone that would be downloaded is missing.
    """
    if not found.get("data.name"):
        known = ", ".join(config_names("data"))
        raise UserError(f"--data.name: name a dataset, as in synthicl fit -c data/digits. Choose one of: {known}.")
    if found.get("extend"):
        extended_run(str(found["extend"]))
    missing = out_of_reach(needed(found))
    lines = [asset.missing_line() for asset in missing]
    if found.get("extend") and any(asset.flag == "--data.root" for asset in missing):
        lines.append(
            "With --extend, name old and new images when the old ones have moved: --data.root=OLD --data.more=[NEW]."
        )
    downloaded = any(asset.flag == "--backbone.weights" and asset.source for asset in missing)
    if downloaded and not found.get("ckpt_path") and backbone_spec(INSTALLED_BACKBONE).weights.find():
        lines.append(
            f"No download is needed with -c backbone/{INSTALLED_BACKBONE}: a network for photographs that "
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
        try:
            more = paths(found.get("data.more") or ())
        except ValueError as error:
            raise UserError(f"--data.more={found['data.more']} {error}.") from error
        assets += [Asset("folder of further images", "--data.more", (folder,)) for folder in more]
    if name := found.get("backbone.name"):
        assets.append(backbone_spec(name).weights_asset(found.get("backbone.weights")))
    assets.append(checkpoint_asset(found.get("tabicl.checkpoint") or "mini", found.get("tabicl.model_path")))
    return assets
