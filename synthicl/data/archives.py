"""Archives of datasets, tar and zip: unpacked whole or not at all, and nothing in them leaves its folder."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path
from typing import IO

from synthicl.core.assets import CACHE_REMEDY, cache_dir
from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, ELSEWHERE, FILE, disk_error, kind_of, stays_inside
from synthicl.core.text import printable

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
Pick = Callable[[Path], Path | None]
"""What of the unpacked content is wanted, None if it is not there."""

# What tarfile and zipfile raise where an archive is cut, changed, encrypted, or names a file twice.
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    LZMAError,
    struct.error,
    EOFError,
    FileExistsError,
    NotADirectoryError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def unpack(archive: Path, folder: Path, what: str, pick: Pick) -> None:
    """Unpack an archive beside ``folder``, and move what is wanted of it there in one step.

    Args:
        archive: a tar, gzipped or not, or a zip, whatever its name.
        folder: where it goes.
        what: what it should hold, for the message.
        pick: given the unpacked content, the folder in it that becomes ``folder``.

    Raises:
        UserError: the archive is damaged or unsafe, cannot be read, or holds something else, or the disk is full.
    """
    remedy = CACHE_REMEDY if folder.is_relative_to(cache_dir()) else ELSEWHERE
    print(f"Unpacking {printable(archive)}", flush=True)
    if (kind := kind_of(archive)) not in (FILE, ABSENT):
        raise UserError(f"{archive}: is {kind}, not an archive. Name a tar or a zip.")
    try:
        with archive.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror or error}). Change its permissions.") from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error, remedy) from error
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            content = Path(temporary) / "content"
            content.mkdir()
            if start == b"PK":
                _unzip(archive, content)
            else:
                _untar(archive, content, gzipped=start == b"\x1f\x8b")
            wanted = pick(content)
            if wanted is None or not wanted.is_dir():
                raise ValueError(f"there is no {what} in it")
            try:
                wanted.replace(folder)
            except OSError:
                if not folder.is_dir():  # another rank may have been quicker
                    raise
    except DAMAGED as error:
        raise UserError(f"{archive}: damaged, or not {what} ({error}). Delete it and run again.") from error
    except OSError as error:
        raise disk_error(folder, error, remedy) from error


def unpacked(archive: Path, what: str, pick: Pick) -> Path:
    """Where an archive lies unpacked in the cache, unpacked now if it was not yet; its own place may be read-only.

    Raises:
        UserError: see `unpack`.
    """
    status = archive.stat()
    key = f"{archive.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    folder = cache_dir() / "datasets" / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not folder.is_dir():
        unpack(archive, folder, what, pick)
    return folder


def _untar(archive: Path, content: Path, gzipped: bool) -> None:
    with gzip.open(archive) if gzipped else archive.open("rb") as stream:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{member.name} is no plain file")
                _put(content, member.name, member.mtime, tar.extractfile(member))
            stream.seek(tar.offset)  # tarfile takes a damaged header for the end, which is a block of zeros
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError("it breaks off")
        while stream.read(2**20):  # gzip's checksum stands at the end, where tarfile does not read
            pass


def _unzip(archive: Path, content: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise ValueError(f"{member.filename} is no plain file")
            modified = time.mktime((*member.date_time, 0, 0, -1))
            if member.is_dir():
                _put(content, member.filename, modified, None)
            else:
                with file.open(member) as source:
                    _put(content, member.filename, modified, source)


def _put(content: Path, name: str, modified: float, source: IO[bytes] | None) -> None:
    """Write one member below ``content``: a file, or a folder where there is no ``source``."""
    if not stays_inside(name):
        raise ValueError(f"{name} lies outside it")
    path = content / name
    if source is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(source, file)
    os.utime(path, (modified, modified))  # embeddings are filed under it
