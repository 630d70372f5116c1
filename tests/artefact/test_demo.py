"""The page of `synthicl demo`: served for real, and used in a real browser where there is one."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from synthicl.artefact.context_set import ContextSet
from synthicl.cli.main import main
from synthicl.data.datasets import Pad
from synthicl.data.datasets.digits import load

ROOT = Path(__file__).parents[2]
gradio = pytest.importorskip("gradio", reason="the extra demo is not installed")
CHROMIUM = os.environ.get("SYNTHICL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

from synthicl.artefact import demo  # noqa: E402
from synthicl.artefact.answer import Answerer  # noqa: E402


@pytest.fixture
def port():
    return free_port()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def serving(run, *flags):
    """The command in a process of its own, where what gradio leaves open is closed: address, process, first lines."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as outside:
        # Whatever it would ask of others goes through here, and is seen.
        proxy = f"http://127.0.0.1:{outside.getsockname()[1]}"
        asks = {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_SHARE": "True", "HTTPS_PROXY": proxy, "GRADIO_TEMP_DIR": ""}
        program = "from synthicl.cli.main import main; raise SystemExit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", program, "demo", str(run), f"--port={port}", *flags],
            cwd=ROOT,
            env=os.environ | asks,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            lines = [process.stdout.readline() for _ in range(1 + bool(flags))]
            yield f"http://127.0.0.1:{port}/", process, lines
            outside.setblocking(False)
            with pytest.raises(BlockingIOError):
                outside.accept()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def served(run):
    with serving(run) as (address, process, lines):
        yield address
        port = address.rpartition(":")[2].strip("/")
        assert lines == [f"digits · version_3: http://127.0.0.1:{port} (Ctrl-C ends it)\n"]
        (uploads,) = Path(tempfile.gettempdir()).glob(f"synthicl-demo-{process.pid}-*")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert not uploads.exists()
        assert "http" not in process.stdout.read()  # no address for others


def reached(address, host):
    """Whether the page is served at another address of this machine."""
    try:
        socket.create_connection((host, int(address.rpartition(":")[2].strip("/"))), 2).close()
    except OSError:
        return False
    return True


def test_it_is_served_to_this_machine_alone(served):
    assert reached(served, "127.0.0.1")
    assert not reached(served, "127.0.0.2")


def test_another_host_is_said(run):
    with serving(run, "--host=0.0.0.0") as (address, _, lines):
        assert lines[1] == "--host=0.0.0.0: whoever reaches this machine can use the page.\n"
        assert reached(address, "127.0.0.2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port=0"], r"--port=0: must lie between 1 and 65535"),
        (["--port=70000"], r"--port=70000: must lie"),
        (["--port=x"], r"port"),
        (["--host=203.0.113.7"], r"--host=203\.0\.113\.7 --port=7860: cannot be served \(.*\)"),
        (["--coverage=1"], r"--coverage=1\.0: must lie between 0 and 1"),
        (["--reject=0"], r"--reject=0\.0: must lie between 0 and 1"),
        (["--reject=nan"], r"reject.*nan"),
        (["--backbone.weights=/gone"], r"--backbone\.weights"),
        (["--nope=1"], r"--nope"),
    ],
)
def test_flags_that_do_not_fit(run, port, flags, message, capsys):
    given = flags if any("port" in flag or "host" in flag for flag in flags) else [*flags, f"--port={port}"]
    assert main(["demo", str(run), *given]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)


def test_a_port_that_is_taken_and_what_is_no_run(run, tmp_path, port, capsys):
    with socket.create_server(("127.0.0.1", port)):
        assert main(["demo", str(run), f"--port={port}"]) == 2
    assert re.search(
        rf"^\nerror: --host=127\.0\.0\.1 --port={port}: cannot be served \(Address already in use\)\. Choose another,",
        capsys.readouterr().err,
    )
    assert main(["demo", str(tmp_path / "gone"), f"--port={port}"]) == 2
    assert "gone: no context set there" in capsys.readouterr().err
    assert main(["demo"]) == 2
    assert "a subject is required" in capsys.readouterr().err


def test_a_pad_draws_what_the_dataset_has(run):
    answerer = Answerer(run)
    assert demo.pad_of(answerer) == Pad("black", 0.18, 8)
    answerer.context.metadata["dataset"] = "somebody's own"
    assert demo.pad_of(answerer) == Pad()
    paper, stroke = Image.new("RGBA", (16, 16), "black"), Image.new("RGBA", (16, 16))
    ImageDraw.Draw(stroke).rectangle((2, 0, 4, 15), fill="white")
    assert np.array_equal(demo.drawn([stroke], paper, None), np.asarray(Image.alpha_composite(paper, stroke))[..., :3])
    coarse = np.asarray(demo.drawn([stroke], paper, 8))[..., 0]
    assert coarse.shape == (8, 8)
    assert coarse[0].tolist() == [0, 255, 128, 0, 0, 0, 0, 0]


def asked(address, image):
    """What the page answers to a request for an image, whatever it says the image is."""
    with urllib.request.urlopen(f"{address}config") as reply:
        handlers = json.load(reply)["dependencies"]
    (number,) = {handler["id"] for handler in handlers for _, event in handler["targets"] if event == "change"}
    body = json.dumps({"data": [image], "fn_index": number, "session_hash": "somebody"}).encode()
    header = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{address}gradio_api/queue/join", body, header)).close()
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=somebody") as reply:
        for line in reply:
            if b"process_completed" in line:
                return json.loads(line.partition(b": ")[2])["output"]
    return None


def test_a_request_cannot_name_a_file_of_this_machine(served, write_image, tmp_path):
    secret = write_image(tmp_path / "secret.png")
    for path in (str(secret), str(tmp_path / "gone.png"), os.path.relpath(secret, ROOT)):
        for image in ({"path": path, "meta": {}}, {"path": path, "meta": {}, "is_stream": True}):
            (page,) = asked(served, image)["data"]
            assert "That image was not uploaded to this page. Drop it again." in page
            assert "<img" not in page
        assert "data" not in asked(served, {"path": path, "meta": {"_type": "gradio.FileData"}})  # gradio's own check


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH or in $SYNTHICL_CHROMIUM")
@pytest.mark.parametrize("width", [1120, 390])
def test_in_a_browser(run, served, tmp_path, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    test = load(None).splits["test"]
    Image.fromarray(test.images[test.labels.tolist().index(0)]).save(tmp_path / "digit.png")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "<i>not.png").write_bytes(b"no image")

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked, failed = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))

        def upload(name):
            page.goto(served)
            page.wait_for_selector("#upload input[type=file]", state="attached")
            page.wait_for_load_state("networkidle")
            page.set_input_files("#upload input[type=file]", tmp_path / name)

        upload("digit.png")
        page.wait_for_selector("#answer .label")
        assert page.inner_text("#answer .label") == "0"
        assert page.locator("#answer .rows li").count() == 20
        assert page.locator("#answer .warning").count() == 0
        # Nothing is wider than the screen, and the examples can be chosen.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator(".gallery-item").nth(1).click()
        page.wait_for_function("document.querySelector('#answer .label').innerText == '1'")
        upload("noise.png")
        page.wait_for_selector("#answer .warning")
        assert page.inner_text("#answer .warning").startswith("Unlike the training images.")
        upload("<i>not.png")
        page.wait_for_selector("#answer .warning")
        line = page.inner_text("#answer")
        assert re.fullmatch(r"\S*not\.png: not a readable image \(.*\)\. Remove it or replace it\.", line.strip())
        # A stroke from above to below.
        page.get_by_role("tab", name="Draw").click()
        page.wait_for_selector("#sketch canvas")
        page.wait_for_timeout(1500)  # the pad is sized after it appeared
        box = page.locator("#sketch canvas").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y - 100)
        page.mouse.down()
        page.mouse.move(x, y + 100, steps=10)
        page.mouse.up()
        page.wait_for_selector("#answer .label")
        assert page.inner_text("#answer .label") in ContextSet.load(run).class_names
        seen = page.get_attribute("#answer .top img", "src").partition("base64,")[2]
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(seen))).convert("L"))
        assert seen.shape == (32, 32)
        assert seen[8:24, 15:17].min() > 150
        assert seen[:, [*range(8), *range(24, 32)]].max() < 20
        assert page.title() == "digits · version_3 · synthicl"
        assert not failed
        assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
        browser.close()
