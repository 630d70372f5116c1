"""Where runs lie: ``outputs/<dataset>/version_<n>``, the newest one also as ``outputs/<dataset>/latest``."""

from __future__ import annotations

import os
import re
from pathlib import Path

CONTEXT_FILE = "context.safetensors"  # the context set in a run's folder, or in a folder of its own
_VERSION = re.compile(r"version_(\d+)")


def next_version(dataset_folder: Path) -> str:
    """The name of the next run: one more than the highest number there."""
    numbers = [int(match[1]) for path in dataset_folder.glob("version_*") if (match := _VERSION.fullmatch(path.name))]
    return f"version_{max(numbers, default=-1) + 1}"


def point_latest(run: Path) -> None:
    """Let ``latest`` beside the run be a link to it, replaced in one step."""
    temporary = run.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(run.name, target_is_directory=True)
    temporary.replace(run.parent / "latest")
