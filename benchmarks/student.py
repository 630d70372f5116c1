"""A student without TabICL beside what it learnt from: accuracy on test, size, and milliseconds for one image.

    .venv/bin/python benchmarks/student.py outputs/digits/latest outputs/groceries/latest     # writes docs/student.md

For each run: TabICL with the run's context and logistic regression on the synthetic images' embeddings, both with the
backbone; the student as ``synthicl export --student`` trains it; the same network on the labels of the synthetic images
instead, where a blend's label is the mean of two in its share; and, as a ceiling, the same network on TabICL's
probabilities for views of all real training images. ``--split val`` is for choosing settings.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import shlex
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from runs import machine
from torch import Tensor, nn

from synthicl.artefact.deployed import DeployedClassifier
from synthicl.artefact.onnx_file import OpenRun, open_run, to_onnx
from synthicl.artefact.student import Lesson, StudentSettings, Teacher, Views, flip_of, teacher_of, train_student
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.core.settings import of_run
from synthicl.core.statistics import mean_accuracy
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.transforms import SquareImages
from synthicl.probes.linear import LinearProbe
from synthicl.report.table import Table, markdown, percent_interval

WARM, CALLS = 5, 100
CHUNK = 64  # images that are classified at once
TABICL, LINEAR = "TabICL on the context", "logistic regression on the same embeddings"
STUDENT, LABELS, CEILING = "student", "the same network on the labels", "the same network on real images"


class LinearClassifier(nn.Module):
    """Backbone and logistic regression as one module: squares (B, 3, s, s), uint8, to probabilities."""

    def __init__(self, backbone: FrozenBackbone, probe: LinearProbe) -> None:
        super().__init__()
        self.backbone = backbone
        weight, bias = probe.logit_weights()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    weight: Tensor
    bias: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Classify squares."""
        logits: Tensor = self.backbone(images / 255) @ self.weight + self.bias
        return logits.softmax(1)


class Measured(NamedTuple):
    """What was found of a classifier on one or more seeds.

    Attributes:
        correct: (seeds, n), whether each image is classified right.
        parameters: how many numbers it has.
        megabytes: of its ONNX file.
        milliseconds: for one image on one thread, the median.
        seconds: to train it, mean over seeds; 0 where nothing is trained.
    """

    correct: np.ndarray
    parameters: int
    megabytes: float
    milliseconds: float
    seconds: float = 0.0


def labels_teacher(labels: Tensor, classes: int) -> Teacher:
    """A teacher that knows labels alone: those of the two images in a view, in its share."""
    one_hot = F.one_hot(labels, classes).float()

    def teacher(views: Views) -> Lesson:
        share = views.share[:, None]
        return Lesson(share * one_hot[views.sources[:, 0]] + (1 - share) * one_hot[views.sources[:, 1]])

    return teacher


def measure(modules: list[nn.Module], metadata: dict[str, str], squares: Tensor, labels: np.ndarray) -> Measured:
    """Measure one classifier, or several seeds of it, by their ONNX files in onnxruntime."""
    correct, times = [], []
    for module in modules:
        data = to_onnx(module.eval(), metadata).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        parts = [session.run(None, {"images": part.numpy()})[0] for part in squares.split(CHUNK)]
        correct.append(np.concatenate(parts).argmax(1) == labels)
        for index in range(WARM + CALLS):
            image = squares[index % len(squares)][None].numpy()
            start = time.perf_counter()
            session.run(None, {"images": image})
            times.append(time.perf_counter() - start if index >= WARM else np.nan)
    parameters = sum(tensor.numel() for tensor in modules[0].parameters())
    return Measured(np.array(correct), parameters, len(data) / 1e6, 1e3 * float(np.nanmedian(times)))


def students(
    images: Tensor, teacher: Teacher, run: OpenRun, seeds: list[StudentSettings]
) -> tuple[list[nn.Module], float]:
    """A student for each seed, and the mean of the seconds it took."""
    start = time.perf_counter()
    size, classes = int(run.metadata["crop_size"]), len(run.classifier.classes_)
    made: list[nn.Module] = [
        train_student(images, teacher, classes, size, flip_of(run.folder), settings) for settings in seeds
    ]
    return made, (time.perf_counter() - start) / len(seeds)


def row(folder: Path, split: str, seeds: list[StudentSettings]) -> tuple[str, dict[str, Measured]]:
    """What is found of a run: a title, and each classifier."""
    with TemporaryDirectory() as place:
        run = open_run(folder, "--student", Path(place) / "student.onnx", Path("student.onnx"))
    data = of_run(folder).data
    splits = ImageDataModule(data.name, data.root, 0, data.split_seed).splits
    size, columns = int(run.metadata["crop_size"]), run.classifier.column_order_
    place_of = np.argsort(columns)  # of a class index among the columns

    def loaded(name: str) -> tuple[Tensor, np.ndarray]:
        squares = SquareImages(splits[name], size)
        return torch.stack([squares[index] for index in range(len(squares))]), place_of[splits[name].labels]

    squares, labels = loaded(split)
    train = loaded("train")[0]
    images = run.context_set.images
    assert images is not None
    probe = LinearProbe()
    probe.fit(run.context_set.rows)
    backbone = run.classifier.image_embedder().backbone
    linear = LinearClassifier(backbone, probe)
    linear.weight, linear.bias = linear.weight[:, columns], linear.bias[columns]
    deployed = DeployedClassifier(run.classifier)
    found = {TABICL: measure([deployed], run.metadata, squares, labels)}
    found[LINEAR] = measure([linear], run.metadata, squares, labels)
    own = torch.from_numpy(place_of[run.context_set.labels.numpy()])
    teachers = {
        STUDENT: (images, teacher_of(run)),
        LABELS: (images, labels_teacher(own, len(columns))),
        CEILING: (train, teacher_of(run)),
    }
    for name, (shown, teacher) in teachers.items():
        made, seconds = students(shown, teacher, run, seeds)
        found[name] = measure(made, run.metadata, squares, labels)._replace(seconds=seconds)
        print(f"{folder}: {name}: {percent_interval(mean_accuracy(found[name].correct))}", flush=True)
    about = f"{data.name}: {len(images)} synthetic images of {len(columns)} classes, {len(train)} real ones, {size} px"
    return f"{about}; {len(labels)} {split} images", found


def table(found: dict[str, Measured]) -> str:
    """A table of one run."""
    header = [
        "",
        "right on average, % [95 %]",
        "each seed, %",
        "parameters",
        "file, MB",
        "ms an image",
        "seconds to train",
    ]
    body = []
    for name, about in found.items():
        each = ", ".join(f"{100 * share:.1f}" for share in about.correct.mean(1)) if len(about.correct) > 1 else ""
        seconds = f"{about.seconds:.0f}" if about.seconds else ""
        numbers = [f"{about.parameters / 1e6:.2f} M", f"{about.megabytes:.2f}", f"{about.milliseconds:.2g}", seconds]
        body.append([name, percent_interval(mean_accuracy(about.correct)), each, *numbers])
    return markdown(Table("", header, body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, default=StudentSettings.views)
    parser.add_argument("--steps", type=int, default=StudentSettings.steps)
    parser.add_argument("--remark", default="", help="a sentence for the page, such as what else ran meanwhile")
    parser.add_argument("--page", type=Path, default=Path("docs/student.md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = [StudentSettings(options.views, options.steps, seed) for seed in range(options.seeds)]
    parts = [row(folder, options.split, seeds) for folder in options.runs]
    words = [word for word in sys.argv[1:] if word not in ("--remark", options.remark, f"--remark={options.remark}")]
    command = f".venv/bin/python benchmarks/student.py {shlex.join(words)}"
    options.page.write_text(page(parts, command, seeds, options.remark), encoding="utf-8")
    print(f"{options.page} written.")


def page(parts: list[tuple[str, dict[str, Measured]]], command: str, seeds: list[StudentSettings], remark: str) -> str:
    sections = "\n\n".join(f"## {title}\n\n{table(found)}" for title, found in parts)
    return f"""# A student without TabICL, measured

Written by `{command}` on {machine()}, onnxruntime {onnxruntime.__version__}.
{remark}

A student is a network of about 0.1 M parameters that looks at images alone. `synthicl export RUN --student` trains it
on TabICL's probabilities and the backbone's embeddings of {seeds[0].views:,} views of the synthetic images in
{seeds[0].steps:,} steps; no real image reaches it. Seeds: {len(seeds)}; a student's interval counts seeds and images,
that of the first two rows images. Milliseconds are the median of {CALLS} calls of the ONNX file in onnxruntime on one
thread. Parameters of TabICL's row are without what it computed from the context, which its file holds.

{sections}

- *{LABELS}*: what a student learns without TabICL and backbone. The views are the same; a blend's label is the mean
  of two, in its share.
- *{CEILING}*: the same lessons about views of all training images, as many and for as many
  steps. What is missing from it to TabICL is the network's; what the student lacks beside it is the synthetic images'.
"""


if __name__ == "__main__":
    main()
