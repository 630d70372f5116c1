"""The exported file beside `predict`: milliseconds for one image, bytes, and how far probabilities lie apart.

    .venv/bin/python benchmarks/deploy.py        # writes docs/deploy.md; ten minutes on one core

Contexts have one row for each of ten classes, as most runs do, in 16 rotated columns with 8 members. What the rows show
plays no part in time and size: they are random squares of the two photographs that scikit-learn ships, and so are the
images that are classified. DINOv2 and TabICL v2 have random weights, as both would have to be downloaded.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from PIL import Image
from runs import machine
from shapes import random_backbone
from sklearn.datasets import load_sample_images
from tabicl._model.tabicl import TabICL
from torch import Tensor

from synthicl.artefact.classifier import open_context_set
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.onnx_file import OPSET, export_onnx
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.data.transforms import random_squares
from synthicl.embeddings.embedder import embed_squares
from synthicl.probes.tabicl import TabICLProbe
from synthicl.report.table import Table, markdown, number
from synthicl.tabicl.checkpoint import MINI
from synthicl.tabicl.preprocessing import fit_preprocessing

CLASSES, TRAIN, WARM = 10, 100, 5
V2 = {"row_rope_interleaved": False, "zero_init": False}  # beside the constructor's defaults: the layout of TabICL v2


class Case(NamedTuple):
    """What is deployed.

    Attributes:
        name: in the table.
        backbone: its name; the weights are random where they are not installed.
        checkpoint: TabICL's: mini, or v2 with random weights.
        crop_size: in pixels.
        images: number that are classified in three ways.
    """

    name: str
    backbone: str
    checkpoint: str
    crop_size: int
    images: int


CASES = (
    Case("digits", "mini", "mini", 32, 500),
    Case("groceries", "efficientnet_lite0", "mini", 128, 500),
    Case("DINOv2 shapes", "dinov2_vits14", "v2", 224, 100),
)


def squares(count: int, size: int, key: str) -> Tensor:
    """Random squares (count, 3, size, size), uint8, of photographs at one and a half times that size."""
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    keys = [(key, index) for index in range(count)]
    parts = [random_squares(photo, 2 * size, keys[number::2]) for number, photo in enumerate(photographs)]
    smaller = torch.nn.functional.interpolate(torch.cat(parts).float(), size=(size, size), mode="area")
    return smaller.round().to(torch.uint8)


def random_v2(path: Path) -> None:
    """A checkpoint of TabICL v2's layout, with enough noise in its weights that queries get different probabilities."""
    torch.manual_seed(0)
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in TabICL(**V2).state_dict().items()}
    torch.save({"config": V2, "state_dict": state}, path)


def milliseconds(call: Callable[[Tensor], object], images: Tensor, calls: int) -> np.ndarray:
    """How long each of some calls takes, one image each."""
    seconds = []
    for index in range(WARM + calls):
        image = images[index % len(images)][None]
        start = time.perf_counter()
        call(image)
        seconds.append(time.perf_counter() - start)
    return 1e3 * np.array(seconds[WARM:])


def measure(case: Case, folder: Path, calls: int) -> list[str]:
    """One row of the table."""
    shipped = case.checkpoint == "mini"
    backbone = FrozenBackbone(case.backbone) if shipped else random_backbone(case.backbone, folder / "b.safetensors")
    checkpoint = MINI if shipped else folder / "v2.ckpt"
    if not shipped:
        random_v2(checkpoint)
    train = embed_squares(backbone, squares(TRAIN, case.crop_size, "train"))
    metadata = {"backbone": case.backbone, "backbone_weights": backbone.fingerprint, "crop_size": case.crop_size}
    metadata["tabicl_checkpoint"] = "mini" if shipped else str(checkpoint)
    names = [str(label) for label in range(CLASSES)]
    preprocessing = fit_preprocessing("rotated16", train)
    context = ContextSet(train[:CLASSES], torch.arange(CLASSES), names, preprocessing, metadata=metadata)
    context.save(folder)
    file = export_onnx(folder, folder / "classifier.onnx", str(backbone.weights), str(checkpoint))

    classifier = open_context_set(context, checkpoint, "cpu", backbone.weights)
    deployment = classifier.probe_.deployment
    plain = TabICLProbe(deployment)
    plain.fit(context.rows)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def fitting(image: Tensor) -> np.ndarray:
        probe = TabICLProbe(deployment)
        probe.fit(context.rows)
        return probe.predict_proba(embed_squares(backbone, image))

    def kept(image: Tensor) -> np.ndarray:
        return classifier.predict_proba(embed_squares(backbone, image).numpy())

    def exported(image: Tensor) -> np.ndarray:
        return np.asarray(session.run(None, {"images": image.numpy()})[0])

    ways = (fitting, lambda image: plain.predict_proba(embed_squares(backbone, image)), kept, exported)
    images = squares(case.images, case.crop_size, "query")
    expected = kept(images)
    assert expected.std(0).max() > 1e-3, "all images get the same probabilities: to compare them says nothing"
    apart = float(np.abs(exported(images) - expected).max())
    times = [milliseconds(way, images, calls) for way in ways]
    alone = milliseconds(lambda image: embed_squares(backbone, image), images, calls)
    cells = [f"{number(np.median(part))} ({number(np.quantile(part, 0.95))})" for part in (*times, alone)]
    factor = f"{np.median(times[0]) / np.median(times[-1]):.1f}"
    size = f"{file.stat().st_size / 1e6:.1f}"
    what = f"{case.backbone}, {case.crop_size} px, TabICL {case.checkpoint}"
    return [case.name, what, *cells, factor, size, f"{apart:.1e}, {case.images}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--images", type=int, help="that probabilities are compared on, in place of each row's own")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--remark", default="", help="a sentence for the page, such as what else ran meanwhile")
    parser.add_argument("--page", type=Path, default=Path("docs/deploy.md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if options.only is None or case.name in options.only:
            with TemporaryDirectory() as folder:
                rows.append(measure(case._replace(images=options.images or case.images), Path(folder), options.calls))
    header = ["", "what", "fitted at each call", "fitted once", "predict: context kept", "ONNX file"]
    header += [
        "of it the backbone, in PyTorch",
        "ONNX against fitting, times",
        "file, MB",
        "largest difference, images",
    ]
    text = page(markdown(Table("", header, rows)), options.calls, options.remark)
    options.page.write_text(text, encoding="utf-8")
    print(f"{options.page} written.")


def page(table: str, calls: int, remark: str) -> str:
    return f"""# The exported classifier, measured

Written by `.venv/bin/python benchmarks/deploy.py` on {machine()}, onnxruntime {onnxruntime.__version__}, opset {OPSET}.
{remark}

Milliseconds for one image: the median and, in brackets, the 95th percentile of {calls} calls on one thread, after
{WARM} calls that do not count. The image is in memory, resized and cropped. Ten context rows, 16 rotated columns, 8
members. DINOv2 and TabICL v2 have random weights: their times and sizes are those of the shapes.

{table}

- *Fitted at each call*: the backbone stays loaded; TabICL is loaded, fitted on the context, and asked once.
- *Fitted once*: TabICL stays loaded, and computes the context with each query, as `predict` once did.
- *predict*: the same with the context's keys and values kept. What is left is mostly the wrapper around the network.
- *Largest difference*: between a probability of the file and one of `predict`, and on how many images.
"""


if __name__ == "__main__":
    main()
