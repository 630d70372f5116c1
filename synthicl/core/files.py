"""Writing files whole or not at all, and turning names that came with data into safe file names."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from synthicl.core.errors import UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file through ``write(temporary_path)`` and move it into place in one step.

    A reader sees the old file or the new one, never a part; a failure leaves the old file and nothing else.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise disk_error(path, error) from error
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _umask() -> int:
    """The process's umask, which can only be read by setting it; mkstemp's own mode would hide files from others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def disk_error(path: Path | str, error: OSError) -> UserError:
    """The line a user reads when a file could not be written."""
    if error.errno == errno.ENOSPC:
        return UserError(f"{path}: the disk is full. Nothing was half-written; free some space and run again.")
    return UserError(
        f"{path}: cannot be written ({error.strerror or error}). Choose another folder or its permissions."
    )


def stays_inside(name: str) -> bool:
    """Whether a path that came with data stays in its folder on any system: it has no root, no drive and no ``..``."""
    path = PureWindowsPath(name)  # which knows / as well
    return not path.anchor and ".." not in path.parts


def safe_folder_name(name: str) -> str:
    """Check that a class name can be a folder's name, as it stands, spaces and unicode included.

    Raises:
        UserError: the name would leave its folder (a separator, ``..``) or cannot be a file name.
    """
    encoded = name.encode(errors="replace")  # names on disk that are not UTF-8 come with lone surrogates
    unfit = any(character in name for character in "/\\\0") or encoded.decode() != name or len(encoded) > 200
    if name in {"", ".", ".."} or unfit:
        raise UserError(
            f"class name {name!r} cannot be a folder's name (separators, not UTF-8, or over 200 bytes). Rename it."
        )
    return name
