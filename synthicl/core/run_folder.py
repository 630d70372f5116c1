"""Where runs lie: ``outputs/<dataset>/version_<n>``, the newest one also as ``outputs/<dataset>/latest``."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from synthicl.core.errors import UserError
from synthicl.core.files import disk_error

CONTEXT_FILE = "context.safetensors"  # the context set in a run's folder, or in a folder of its own
_VERSION = re.compile(r"version_(\d+)")


def next_version(dataset_folder: Path) -> str:
    """The name of the next run: one more than the highest number there."""
    numbers = [int(match[1]) for path in dataset_folder.glob("version_*") if (match := _VERSION.fullmatch(path.name))]
    return f"version_{max(numbers, default=-1) + 1}"


def check_writable(folder: Path, flag: str) -> None:
    """Check that a folder can be made, or written to, and leave the disk as it is.

    Args:
        folder: that may not be there yet.
        flag: that named it, with its value.

    Raises:
        UserError: it cannot.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
        is_folder = there.is_dir()
    except (OSError, ValueError) as error:  # names that are too long, or hold a null byte
        raise UserError(f"{flag}: cannot be a folder ({error}). Choose another.") from error
    if not is_folder:
        raise UserError(f"{flag}: {there} is not a folder. Choose another.")
    try:
        tempfile.TemporaryDirectory(dir=there, prefix=".synthicl-").cleanup()  # permissions do not say all
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{flag}: {there} cannot be written to ({reason}). Choose another folder.") from error


def point_latest(run: Path) -> None:
    """Let ``latest`` beside the run be a link to it, replaced in one step; what is no link is the user's and stays.

    Raises:
        UserError: the folder cannot be written to.
    """
    latest, temporary = run.parent / "latest", run.parent / f".latest-{os.getpid()}"
    if latest.exists() and not latest.is_symlink():
        print(f"{latest}: is not a link, so it is left as it is. The run lies in {run}.", flush=True)
        return
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.name, target_is_directory=True)
        temporary.replace(latest)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(latest, error) from error
