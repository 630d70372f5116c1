"""``synthicl demo``: a page that shows what a context set says of an image, see `synthicl.artefact.answer`.

The page is served to this machine alone unless told otherwise. It loads nothing from elsewhere, and images that were
dropped on it are deleted when it ends. It is made with gradio, an optional package.
"""

from __future__ import annotations

import html
import ipaddress
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from synthicl.artefact.answer import Answerer
from synthicl.core.errors import UserError, check_between
from synthicl.core.files import lies_inside
from synthicl.core.settings import HOST, LEVEL, PORT
from synthicl.core.text import printable
from synthicl.data.datasets import DATASETS, Pad

STYLE = Path(__file__).parent / "templates" / "demo.css"
NOTHING = '<div class="answer"><p class="note">The answer to an image or a drawing appears here.</p></div>'
PAD = 288  # side of the sketch pad in pixels, which fits a telephone
EXAMPLES = 10
LARGEST = "64mb"  # file that is taken


def demo(
    context: Path | str,
    host: str = HOST,
    port: int = PORT,
    backbone_weights: str | None = None,
    model_path: str | None = None,
    device: torch.device | str = "cpu",
    coverage: float = LEVEL,
    reject: float = LEVEL,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        context: folder of a finished run or of a context set, or the id of one on the Hugging Face Hub.
        host: address to serve at; anything but this machine's own lets others use the page, as 0.0.0.0 does.
        port: from 1 to 65,535.
        backbone_weights: see `Answerer`, like what follows.
        model_path: likewise.
        device: likewise.
        coverage: likewise.
        reject: likewise.

    Raises:
        UserError: what `Answerer` raises, or the address is taken or cannot be served.
    """
    check_address(host, port)
    answerer = Answerer(context, backbone_weights, model_path, device, coverage, reject)
    # gradio asks an address of its authors' for newer versions and tells it what is built, unless told not to.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix=f"synthicl-demo-{os.getpid()}-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        blocks = page(answerer, Path(uploads))
        try:
            blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                max_file_size=LARGEST,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                css_paths=STYLE,
                # Its own themes load their fonts from Google.
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            )
        except OSError as error:  # taken since it was checked
            raise _taken(host, port, error) from error
        print(f"{printable(answerer.title)}: http://{_in_address(host)}:{port} (Ctrl-C ends it)", flush=True)
        if not _is_local(host):
            print(f"--host={host}: whoever reaches this machine can use the page.", flush=True)
        blocks.block_thread()


def page(answerer: Answerer, folder: Path) -> gr.Blocks:
    """The page, not served yet.

    Args:
        answerer: what it asks.
        folder: where examples are written, as files that can be chosen, and where gradio puts uploads. No image from
            anywhere else is opened.
    """
    pad = pad_of(answerer)
    ink = "white" if pad.ground == "black" else "black"
    paper = Image.new("RGBA", (PAD, PAD), pad.ground)

    def of_file(file: dict[str, Any] | None) -> str:
        if file is None or not file.get("path"):
            return NOTHING
        path = Path(file["path"])
        # What a request names is the sender's word; gradio checks it only where the request says that it is a file.
        if not lies_inside(path, folder):
            return refusal("That image was not uploaded to this page. Drop it again.")
        return said(answerer, path, str(file.get("orig_name") or path.name))

    def of_drawing(drawing: dict[str, Any] | None) -> str:
        layers = [layer for layer in (drawing and drawing["layers"]) or [] if layer.getbbox()]
        if not layers:
            return NOTHING
        return said(answerer, drawn(layers, paper, pad.pixels), "the drawing")

    with gr.Blocks(title=f"{answerer.title} · synthicl", analytics_enabled=False) as blocks:
        gr.HTML(heading(answerer))
        with gr.Row():
            with gr.Column(min_width=300, scale=2):
                with gr.Tab("Image"):
                    upload = gr.Image(
                        label="Image",
                        type="filepath",
                        sources=["upload", "clipboard"],
                        image_mode=None,
                        height=PAD,
                        buttons=[],
                        elem_id="upload",
                    )
                    if examples := example_images(answerer, folder):
                        gr.Examples(
                            [[str(path)] for path in examples], upload, label="Synthetic images of this set, to try"
                        )
                with gr.Tab("Draw"):
                    sketch = gr.Sketchpad(
                        {"background": paper, "layers": [], "composite": None},
                        label=f"{ink.capitalize()} on {pad.ground}",
                        type="pil",
                        canvas_size=paper.size,
                        fixed_canvas=True,
                        height=PAD + 100,
                        brush=gr.Brush(default_size=round(PAD * pad.brush / 2), colors=[ink], color_mode="fixed"),
                        layers=False,
                        transforms=[],
                        buttons=[],
                        elem_id="sketch",
                    )
                    gr.HTML(about_pad(pad, ink))
            with gr.Column(min_width=300, scale=3):
                answer = gr.HTML(NOTHING, elem_id="answer")
        # One question at a time, whoever asks: reading attention hooks into the network.
        asking = {"concurrency_id": "answer", "concurrency_limit": 1, "api_visibility": "private"}
        # gradio does not read the file: that is done by the rules of predict.
        upload.change(of_file, upload, answer, preprocess=False, show_progress="minimal", **asking)
        sketch.input(of_drawing, sketch, answer, show_progress="hidden", trigger_mode="always_last", **asking)
    return blocks


def drawn(layers: Sequence[Image.Image], paper: Image.Image, pixels: int | None) -> Image.Image:
    """The picture of strokes with transparency on paper, averaged over a grid of ``pixels`` where there is one."""
    for layer in layers:
        paper = Image.alpha_composite(paper, layer.convert("RGBA").resize(paper.size))
    picture = paper.convert("RGB")
    return picture if pixels is None else picture.resize((pixels, pixels), Image.Resampling.BOX)


def said(answerer: Answerer, image: Path | Image.Image, name: str) -> str:
    """An answer as HTML, or the line why there is none, which calls the image by its name."""
    try:
        return answerer.html(answerer(image))
    except UserError as error:
        return refusal(printable(str(error).replace(str(image), name)))


def refusal(line: str) -> str:
    """The line why there is no answer, as HTML."""
    return f'<div class="answer"><p class="warning" role="alert">{html.escape(line)}</p></div>'


def heading(answerer: Answerer) -> str:
    """Title of the page, and what answers, as HTML."""
    context, about = answerer.context, answerer.context.metadata
    made = f"{len(context.labels)} context images of {len(context.class_names)} classes"
    parts = [made, f"backbone {about['backbone']}", f"TabICL {about.get('tabicl_checkpoint', '')}".strip()]
    line = html.escape(printable(", ".join(parts)))
    return f'<div class="heading"><h1>{html.escape(printable(answerer.title))}</h1><p class="note">{line}.</p></div>'


def example_images(answerer: Answerer, folder: Path) -> list[Path]:
    """Write an image of the context of each class, of as many as there is room for; none of a set without images."""
    context = answerer.context
    if context.images is None:
        return []
    labels = context.labels.tolist()
    chosen = sorted(labels.index(label) for label in sorted(set(labels))[:EXAMPLES])
    paths = [folder / f"example-{number}.png" for number in chosen]
    for path, number in zip(paths, chosen, strict=True):
        Image.fromarray(context.images[number].permute(1, 2, 0).contiguous().numpy()).save(path)
    return paths


def pad_of(answerer: Answerer) -> Pad:
    """The sketch pad for the set's dataset; a plain one where that is not known here."""
    name = answerer.context.metadata.get("dataset")
    return DATASETS.get(name).pad if name in DATASETS.names() else Pad()


def about_pad(pad: Pad, ink: str) -> str:
    """What becomes of a drawing, as HTML."""
    line = f"{ink.capitalize()} on {pad.ground}, as the images of this dataset are. " if pad.pixels else ""
    grid = f"It is averaged to {pad.pixels} x {pad.pixels} pixels, as they were: fill the pad. " if pad.pixels else ""
    return f'<div class="heading"><p class="note">{line}{grid}It is classified after each stroke.</p></div>'


def check_address(host: str, port: int) -> None:
    """Check that a port can be served.

    Raises:
        UserError: it is out of range or taken, or the host is not this machine's.
    """
    check_between(1, 65535, "--", port=port)
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise _taken(host, port, error) from error


def _taken(host: str, port: int, error: OSError) -> UserError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return UserError(
        f"--host={host} --port={port}: cannot be served ({reason}). Choose another, such as --port={port % 65535 + 1}."
    )


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
