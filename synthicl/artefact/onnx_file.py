"""``export --onnx``: the classifier of a run as one ONNX file, which needs neither this package nor PyTorch.

Images as squares of pixels go in, probabilities come out: backbone, preprocessing, and TabICL with its context inside
(`synthicl.artefact.deployed`). What a user needs to know beside that stands in the file's metadata, as texts:

| key | what it is |
| --- | --- |
| ``class_names`` | JSON: the name of each column of the probabilities |
| ``crop_size`` | side of the squares in pixels |
| ``resize`` | how an image becomes a square, in words |
| ``backbone``, ``backbone_licence`` | its name, the licence of its weights |
| ``tabicl_checkpoint`` | its name |
| ``backbone_weights``, ``tabicl_weights`` | SHA-256 of both files, 16 hex digits |
| ``preprocessing``, ``members`` | TabICL's: its name, and the size of the ensemble |
| ``temperature`` | of the probabilities, which are at it already |
| ``context_set`` | SHA-256 of ``context.safetensors``, 16 hex digits |
| ``dataset``, ``dataset_licence`` | what the context stands for, where the context set says so |
| ``versions`` | JSON: of synthicl and of what made the file |
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import synthicl
from synthicl.artefact.classifier import InContextClassifier
from synthicl.artefact.context_set import ContextSet
from synthicl.artefact.deployed import DeployedClassifier
from synthicl.artefact.opened import open_set
from synthicl.core.assets import ONNX_PACKAGES, require_packages
from synthicl.core.errors import UserError
from synthicl.core.files import check_output, file_fingerprint, write_whole
from synthicl.core.randomness import keyed_generator
from synthicl.core.run_folder import CONTEXT_FILE, check_writable
from synthicl.core.text import printable
from synthicl.data.transforms import crop_centre
from synthicl.embeddings.embedder import embed_squares

if TYPE_CHECKING:
    import onnx

OUTPUT = Path("classifier.onnx")  # in the current directory: a run's folder is a finished artefact
OPSET = 20  # the first with an operator for GELU; onnxruntime reads it from 1.17 on
MAX_BYTES = 2**31 - 2**24  # of numbers: a file of protobuf ends at 2 GiB, and the graph needs some
TOLERANCE = 1e-4  # of a probability, between the file and `predict`
CHECKED = 8  # squares that a file is checked with
RESIZE = (
    "upright, RGB; resized so that the short side is crop_size and the long side rounded down (Pillow, bilinear); "
    "the centre crop_size x crop_size; uint8, channels first"
)


def export_onnx(
    context: Path | str,
    output: Path | None = None,
    backbone_weights: str | None = None,
    model_path: str | None = None,
) -> Path:
    """Write the classifier of a run as one ONNX file.

    Its input ``images`` is (B, 3, s, s), uint8, its output ``probabilities`` (B, C), float32, for any B. The file is
    compared with `InContextClassifier` before it is put in its place.

    Args:
        context: folder of a finished run, or of a context set; or a text, the id of one on the Hugging Face Hub.
        output: the file; None for ``classifier.onnx`` in the current directory. It is written whole or not at all.
        backbone_weights: a local weights file; None for the one the run was made with, the bundled or downloaded one.
        model_path: a TabICL checkpoint file; None for the one the run was made with.

    Returns:
        Path of the file.

    Raises:
        UserError: a package is missing, no context set, other weights than the run's, a missing file, an output that is
            one of the files that are read, a context that cannot be kept, more numbers than a file can hold, or a file
            that computes something else.
    """
    output = OUTPUT if output is None else output
    _, classifier, context_set, about = open_run(context, "--onnx", output, OUTPUT, backbone_weights, model_path)
    deployed = DeployedClassifier(classifier).eval()
    squares = example_squares(context_set, deployed.crop_size)
    expected = classifier.predict_proba(embed_squares(deployed.backbone, squares).numpy())
    print("Tracing the classifier takes a minute or less.", flush=True)
    model = to_onnx(deployed, about | {"temperature": str(deployed.temperature)})
    write_model(model, output, "--onnx", squares, expected)
    return output


class OpenRun(NamedTuple):
    """A run that a file is made from.

    Attributes:
        folder: of the run, or of the context set.
        classifier: fitted.
        context_set: it was fitted on.
        metadata: what every file says about itself.
    """

    folder: Path
    classifier: InContextClassifier
    context_set: ContextSet
    metadata: dict[str, str]


def open_run(
    context: Path | str,
    flag: str,
    output: Path,
    example: Path,
    backbone_weights: str | None = None,
    model_path: str | None = None,
    device: torch.device | str = "cpu",
) -> OpenRun:
    """Check where a file is to go, and open the run that it is made from.

    Args:
        context: see `export_onnx`.
        flag: that asks for the file.
        output: the file.
        example: what could be named in its place.
        backbone_weights: see `export_onnx`.
        model_path: see `export_onnx`.
        device: where backbone and TabICL run.

    Raises:
        UserError: a package is missing, no context set, other weights than the run's, a missing file, or an output that
            cannot be written or is one of the files that are read.
    """
    require_packages(flag, "onnx", *ONNX_PACKAGES)
    check_output(output, flag, example)
    check_writable(output.parent, f"{flag}={output}")
    opened = open_set(context, backbone_weights, model_path, device)
    check_output(output, flag, example, opened.files)
    about = describe(opened.classifier) | {"context_set": file_fingerprint(opened.folder / CONTEXT_FILE)}
    return OpenRun(opened.folder, opened.classifier, opened.context_set, about)


def write_model(model: onnx.ModelProto, output: Path, flag: str, squares: Tensor, expected: np.ndarray) -> None:
    """Put a file in its place once it computes what is expected, and say so.

    Args:
        model: with its metadata.
        output: the file.
        flag: that asked for it.
        squares: (n, 3, s, s), uint8.
        expected: (n, C), the probabilities of these squares.

    Raises:
        UserError: it computes something else, or cannot be written.
    """

    def write(path: Path) -> None:
        path.write_bytes(model.SerializeToString())
        check_file(path, squares.numpy(), expected, flag)

    write_whole(output, write)
    about = f"{expected.shape[1]} classes, {squares.shape[-1]} px, {output.stat().st_size / 1e6:.1f} MB"
    print(f"{about}: {printable(output)}", flush=True)


def describe(classifier: InContextClassifier) -> dict[str, str]:
    """The metadata of a file, see the module; what only one kind of file has aside."""
    context, deployment, embedder = classifier.context_, classifier.probe_.deployment, classifier.image_embedder()
    versions = {name: version(name) for name in ("torch", "tabicl", *ONNX_PACKAGES)}
    members = classifier.probe_.learners()[0].ensemble_generator_.ensemble_configs_
    return {
        "class_names": json.dumps([str(name) for name in classifier.classes_]),
        "crop_size": str(embedder.crop_size),
        "resize": RESIZE,
        "backbone": embedder.backbone.name,
        "backbone_weights": embedder.backbone.fingerprint,
        "backbone_licence": embedder.backbone.licence,
        "tabicl_checkpoint": deployment.checkpoint,
        "tabicl_weights": file_fingerprint(deployment.model_path),
        "preprocessing": context.preprocessing.name,
        "members": str(sum(map(len, members.values()))),
        "versions": json.dumps({"synthicl": synthicl.__version__} | versions),
    } | {name: str(context.metadata[name]) for name in ("dataset", "dataset_licence") if name in context.metadata}


def to_onnx(deployed: nn.Module, metadata: dict[str, str]) -> onnx.ModelProto:
    """Trace a classifier.

    Args:
        deployed: squares (B, 3, s, s), uint8, in, probabilities (B, C) out.
        metadata: what the file says about itself; ``crop_size`` is s.

    Raises:
        UserError: its numbers do not fit into one file.
    """
    # Optional packages, looked for by the caller.
    import onnx

    numbers = sum(tensor.nbytes for tensor in (*deployed.parameters(), *deployed.buffers()))
    if numbers > MAX_BYTES:
        raise UserError(
            f"--onnx: backbone, TabICL and context are {numbers / 2**30:.1f} GiB, and an ONNX file holds 2 GiB. "
            "Use a run with a smaller backbone, fewer columns (rotated16) or fewer members."
        )
    # Not 1 image, which the exporter would take for a constant.
    size = int(metadata["crop_size"])
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with torch.no_grad(), _quiet():
        deployed(images)  # what a network computes once per size is computed here, not in the file
        program = torch.onnx.export(
            deployed,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        part.ClearField("metadata_props")  # which line of which file on this machine each node comes from
        part.ClearField("doc_string")
    onnx.helper.set_model_props(model, metadata)
    return model


def example_squares(context: ContextSet, size: int) -> Tensor:
    """Squares (n, 3, size, size), uint8, to check a file with: images of the context, where it has some, and noise."""
    shape = (CHECKED // 2, 3, size, size)
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=keyed_generator("export", size))
    if context.images is None or context.images.shape[-1] < size:
        return noise
    return torch.cat([crop_centre(context.images[: CHECKED // 2], size), noise])


def check_file(path: Path, squares: np.ndarray, expected: np.ndarray, flag: str) -> None:
    """Compare what onnxruntime makes of a file with what is expected, image by image and all at once.

    Raises:
        UserError: they differ by more than `TOLERANCE`.
    """
    # Optional packages, looked for by the caller.
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        [probabilities] = session.run(["probabilities"], {"images": images})
        return np.asarray(probabilities)

    together, alone = run(squares), np.concatenate([run(square[None]) for square in squares])
    error = max(float(np.abs(found - expected).max()) for found in (together, alone))
    if not error <= TOLERANCE:  # NaN is not
        raise UserError(
            f"{flag}: in onnxruntime {version('onnxruntime')} the probabilities differ from PyTorch's by {error:.2g}, "
            f"more than {TOLERANCE:g}. Nothing was written; use synthicl predict, and please report it."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says about its own passes from the user; what matters is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
