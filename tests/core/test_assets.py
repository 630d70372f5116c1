import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from synthicl.core.assets import Asset, cache_dir, obtain, reachable, require
from synthicl.core.errors import UserError

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 5000  # more than one chunk


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at /whole and /unsized, less than it announces at /cut, an error elsewhere."""

    def do_GET(self):
        if self.path not in {"/whole", "/unsized", "/cut"}:
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/cut" else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def refused():
    """An address whose port nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound without listen: connections are refused, and nobody else takes the port
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("SYNTHICL_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.setenv("SYNTHICL_CACHE", "")
    assert cache_dir() == Path.home() / ".cache" / "synthicl"


def test_find_takes_the_first_place_that_exists(tmp_path):
    asset = Asset("weights", "--flag", (tmp_path / "a", tmp_path / "b", tmp_path / "c"))
    assert asset.find() is None
    (tmp_path / "c").touch()
    (tmp_path / "b").mkdir()
    assert asset.find() == tmp_path / "b"


def test_missing_line_names_what_where_from_and_the_flag():
    asset = Asset("weights", "--backbone.weights", (Path("/a"), Path("/b")), "https://example.org/x.pth")
    assert asset.missing_line() == (
        "weights: not found (looked for /a, /b; it comes from https://example.org/x.pth, which is out of reach). "
        "Supply it with --backbone.weights=PATH."
    )
    packaged = Asset("weights", "--backbone.weights", (Path("/a"),), package="some-weights")
    assert packaged.missing_line() == (
        "weights: not found (looked for /a). Supply it with --backbone.weights=PATH or pip install some-weights."
    )
    by_hand = Asset("folder of images", "--data.root", (Path("/a"),))
    assert by_hand.missing_line() == "folder of images: not found (looked for /a). Supply it with --data.root=PATH."


def test_reachable(server, refused):
    assert reachable(server + "/whatever")
    assert not reachable(refused)


def test_reachable_asks_the_proxy_where_there_is_one(server, refused, monkeypatch):
    monkeypatch.setenv("http_proxy", server)
    assert reachable("http://host.invalid/x")
    monkeypatch.setenv("http_proxy", refused)
    assert not reachable("http://host.invalid/x")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reachable(server)


def test_name_lookup_that_hangs_holds_up_neither_the_answer_nor_the_exit():
    code = (
        "import socket, sys, time\n"
        "socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)\n"
        "from synthicl.core.assets import reachable\n"
        "sys.exit(7 if not reachable('https://example.invalid', timeout=0.2) else 0)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50, check=False)
    assert done.returncode == 7
    assert time.monotonic() - start < 20


def test_require_is_content_with_what_lies_there_or_can_be_downloaded(tmp_path, server):
    require([])
    require([Asset("here", "--a", (tmp_path,)), Asset("there", "--b", (tmp_path / "x",), server + "/whole")])
    assert not list(tmp_path.iterdir())


def test_require_names_everything_that_is_missing_in_a_line_each(tmp_path, refused, server):
    assets = [
        Asset("one", "--a", (tmp_path / "x",), refused),
        Asset("here", "--b", (tmp_path,)),
        Asset("two", "--c", (tmp_path / "y",)),
        Asset("loadable", "--d", (tmp_path / "z",), server),
    ]
    with pytest.raises(UserError) as caught:
        require(assets)
    assert str(caught.value).splitlines() == [assets[0].missing_line(), assets[2].missing_line()]


def test_obtain_takes_what_lies_there(tmp_path, refused):
    (tmp_path / "x").touch()
    assert obtain(Asset("weights", "--flag", (tmp_path / "x",), refused)) == tmp_path / "x"


@pytest.mark.parametrize("path", ["/whole", "/unsized"])
def test_obtain_downloads_to_the_last_place(tmp_path, server, path, capsys):
    asset = Asset("weights", "--flag", (tmp_path / "hub" / "x", tmp_path / "cache" / "x"), server + path)
    target = tmp_path / "cache" / "x"
    assert obtain(asset) == target
    assert target.read_bytes() == CONTENT
    assert capsys.readouterr().out == f"Downloading weights from {server}{path} to {target}\n"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [target]
    obtain(asset)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/cut", rf"it broke off after 1000 of {len(CONTENT)} bytes"), ("/gone", "HTTP Error 404: Not Found")],
)
def test_broken_download_leaves_nothing(tmp_path, server, path, reason):
    asset = Asset("weights", "--flag", (tmp_path / "x",), server + path, package="p")
    message = rf"^{re.escape(server + path)}: download failed \({reason}\)\. "
    message += r"Run again, or supply the file with --flag=PATH or pip install p\.$"
    with pytest.raises(UserError, match=message):
        obtain(asset)
    assert not list(tmp_path.iterdir())


def test_message_when_the_disk_cannot_take_a_download(tmp_path, server):
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"cache/x: cannot be written"):
        obtain(Asset("weights", "--flag", (tmp_path / "cache" / "x",), server + "/whole"))


def test_obtain_says_what_is_missing(tmp_path, refused):
    asset = Asset("weights", "--flag", (tmp_path / "x",), refused)
    with pytest.raises(UserError) as caught:
        obtain(asset)
    assert str(caught.value) == asset.missing_line()
