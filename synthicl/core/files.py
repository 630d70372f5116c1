"""Writing files whole or not at all, and turning names that came with data into safe file names."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath

from synthicl.core.errors import UserError
from synthicl.core.text import printable

FILE, FOLDER, ABSENT = "a file", "a folder", "missing"
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
ELSEWHERE = "Choose another folder or its permissions."


def kind_of(path: Path) -> str:
    """What lies at a path, in words: `FILE`, `FOLDER`, `ABSENT`, or what is no good to anybody.

    Unlike ``Path.is_file`` it raises nothing, whatever the name, and tells a dangling link from one in a circle. What
    is neither a file nor a folder must not be opened: reading a FIFO waits for ever.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else ABSENT
    except NotADirectoryError:
        return ABSENT
    except OSError as error:
        return "a link in a circle" if error.errno == errno.ELOOP else f"out of reach ({error.strerror})"
    except ValueError:  # a zero byte, or what the file system's encoding lacks
        return ABSENT
    if stat.S_ISREG(mode):
        return FILE
    return FOLDER if stat.S_ISDIR(mode) else _SPECIAL.get(stat.S_IFMT(mode), "neither file nor folder")


def same_file(path: Path, others: Iterable[Path]) -> Path | None:
    """The first of some paths that leads to the file at ``path``, through links as well; None where none does."""
    try:
        status = path.stat()
        return next((other for other in others if _is(other, status)), None)
    except (OSError, ValueError):
        return None


def check_output(output: Path, flag: str, example: Path, read: Iterable[Path] = ()) -> None:
    """Check that a file may be written.

    Args:
        output: the file.
        flag: that names it.
        example: what could be named in its place.
        read: files that are read.

    Raises:
        UserError: what lies there is no file, or is one of those.
    """
    if (kind := kind_of(output)) not in (FILE, ABSENT):
        named = output / example if kind == FOLDER else example
        raise UserError(f"{flag}={output}: is {kind}. Name a file, for example {named}.")
    if onto := same_file(output, read):
        raise UserError(f"{flag}={output}: is {onto}, which is read. Name another file, for example {example}.")


def _is(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except (OSError, ValueError):
        return False


def require_writable(folder: Path, remedy: str = ELSEWHERE) -> None:
    """Check that files can be written into a folder, before hours are spent on what is to go there.

    The folder is made if need be.

    Raises:
        UserError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise disk_error(folder, error, remedy) from error


def write_whole(path: Path, write: Callable[[Path], object], remedy: str = ELSEWHERE) -> None:
    """Write a file through ``write(temporary_path)`` and move it into place in one step.

    A reader sees the old file or the new one, never a part; a failure leaves the old file and nothing else.

    Args:
        path: the file.
        write: writes it somewhere else.
        remedy: the sentence that ends the message.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise disk_error(path, error, remedy) from error
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error, remedy) from error
    finally:
        temporary.unlink(missing_ok=True)


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits.

    Raises:
        UserError: it is no file, or cannot be read.
    """
    if (kind := kind_of(path)) != FILE:
        raise UserError(f"{path}: is {kind}, not a file. Name the file itself.")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Change its permissions.") from error


def _umask() -> int:
    """The process's umask, which can only be read by setting it; mkstemp's own mode would hide files from others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def disk_error(path: Path | str, error: OSError, remedy: str = ELSEWHERE) -> UserError:
    """The line a user reads when a file could not be written; ``remedy`` is its last sentence."""
    if error.errno == errno.ENOSPC:
        return UserError(f"{path}: the disk is full. Nothing was half-written; free some space and run again.")
    return UserError(f"{path}: cannot be written ({error.strerror or error}). {remedy}")


def stays_inside(name: str) -> bool:
    """Whether a path that came with data stays in its folder on any system: it has no root, no drive and no ``..``."""
    path = PureWindowsPath(name)  # which knows / as well
    return not path.anchor and ".." not in path.parts


def lies_inside(path: Path | str, folder: Path) -> bool:
    """Whether a path leads to a place within a folder, after links and ``..``; what cannot be a path does not."""
    try:
        return Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, a null byte
        return False


def safe_folder_name(name: str) -> str:
    """Check that a class name can be a folder's name, as it stands, spaces and unicode included.

    Raises:
        UserError: the name would leave its folder (a separator, ``..``), cannot be a file name, or would not stay on
            its line where it is shown (control characters, what turns the direction of writing).
    """
    encoded = name.encode(errors="replace")  # names on disk that are not UTF-8 come with lone surrogates
    unfit = "/" in name or "\\" in name or printable(name) != name or len(encoded) > 200
    if name in {"", ".", ".."} or unfit:
        shown = repr(name[:201])
        raise UserError(
            f"class name {shown} cannot be a folder's name (separators, control characters, not UTF-8, or over 200 "
            "bytes). Rename it."
        )
    return name
