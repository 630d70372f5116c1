"""``export --student``: a small network that looks at images alone, trained on a run's synthetic images.

Views of the synthetic images, cropped, recoloured and blended at random, are shown to TabICL with its context, and the
student learns the probabilities that TabICL gives them. That is knowledge distillation (G. Hinton, O. Vinyals, J. Dean,
"Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531) at temperature 1, done as
function matching: teacher and student see the same view, and views differ far more than the images that they are made
of (L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022,
https://arxiv.org/abs/2106.05237). Beside the probabilities it learns the backbone's embeddings, which say far more of a
view (hints: A. Romero et al., "FitNets", ICLR 2015, https://arxiv.org/abs/1412.6550). No real image is read.

The file is like that of ``--onnx`` (`synthicl.artefact.onnx_file`): the same input, output and metadata, of which
``backbone``, ``tabicl_...``, ``preprocessing`` and ``members`` are the teacher's. Beside it:

| key | what it is |
| --- | --- |
| ``student`` | JSON: ``parameters``, ``views``, ``steps``, ``seed`` |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from synthicl.artefact.onnx_file import OpenRun, example_squares, open_run, to_onnx, write_model
from synthicl.artefact.opened import home_of
from synthicl.core.errors import UserError, check_between
from synthicl.core.randomness import keyed_generator
from synthicl.core.settings import of_run
from synthicl.data.augmentation import Augmentation
from synthicl.data.transforms import to_uint8
from synthicl.embeddings.embedder import embed_squares

OUTPUT = Path("student.onnx")  # in the current directory: a run's folder is a finished artefact
FLAGS = "--student_"
MAX_VIEWS, MAX_STEPS = 10**6, 10**7
SIDE = 64  # pixels; larger squares are averaged down to a side of 64 to 127
WIDTH, GROUPS = 64, 8  # channels, and those that are normalised together
PATCH, PLACES = 8, 4  # pixels along a side, and cells that the last layer tells apart
BLOCK = 256  # views that are made and labelled at once
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05
HINT = 20.0  # weight of the squared distance to standardised embeddings; chosen on val of the digits, one seed
CELLS = (2, 8)  # least and greatest number of random values along a side of a blend's mask
BLENDED, BLURRED, GREY = 0.7, 0.7, 0.7  # shares of the views
TURN, STRETCH, SHIFT = 0.35, 0.3, 0.5  # radians; of the logarithm of a side; of half a side
SCALE = (0.6, 1.3)  # side of what a view shows, in sides of the image
COLOUR, NOISE = 0.4, 0.1  # relative change of light and contrast; greatest standard deviation, of [0, 1]


@dataclass(frozen=True)
class StudentSettings:
    """How a student is trained.

    Args:
        views: how many the teacher labels, at least one batch of them.
        steps: of the optimiser, 64 views each.
        seed: of views, weights and order.

    Raises:
        UserError: a number is out of range.
    """

    views: int = 16_000
    steps: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        check_between(BATCH, MAX_VIEWS, FLAGS, views=self.views)
        check_between(1, MAX_STEPS, FLAGS, steps=self.steps)
        check_between(0, 2**63 - 1, FLAGS, seed=self.seed)


class Views(NamedTuple):
    """Views of images, each a blend of two of them.

    Attributes:
        squares: (n, 3, s, s), uint8.
        sources: (n, 2), the number of either image.
        share: (n,), of the first image in the view, in [0, 1].
    """

    squares: Tensor
    sources: Tensor
    share: Tensor


class Lesson(NamedTuple):
    """What a teacher says about views, float32, on the CPU.

    Attributes:
        probabilities: (n, C).
        embeddings: (n, D); None for a teacher without a backbone.
    """

    probabilities: Tensor
    embeddings: Tensor | None = None


Module = TypeVar("Module", bound=nn.Module)
Teacher = Callable[[Views], Lesson]


class Student(nn.Module):
    """A convolutional network of about 0.1 M parameters: squares in, probabilities out.

    It begins with large overlapping patches, as the teacher's backbones do: on the digits' val it follows TabICL
    further so than with small ones.

    Args:
        classes: C.
        size: side s in pixels of the squares.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.shrink = max(1, size // SIDE)
        layers = _convolution(3, PATCH, PATCH // 2)
        while (places := _places(layers, size // self.shrink)) > PLACES:
            layers += _convolution(WIDTH, 3, 2)
        layers += _convolution(WIDTH, 3, 1)
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.width = WIDTH * places**2
        self.head = nn.Linear(self.width, classes)

    def shrunk(self, squares: Tensor) -> Tensor:
        """Squares (n, 3, s, s), uint8, as the network sees them: averaged over blocks of pixels, in [0, 1]."""
        return F.avg_pool2d(squares / 255, self.shrink)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (n, C) of squares (n, 3, s, s), uint8."""
        logits: Tensor = self.head(self.features(2 * self.shrunk(images) - 1))
        return logits.softmax(1)


def _convolution(channels: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, WIDTH, kernel, stride, (kernel - 1) // 2)
    # Statistics of one image, not of a batch: real images have others than the views.
    return [convolution, nn.GroupNorm(GROUPS, WIDTH), nn.GELU()]


def _places(layers: list[nn.Module], side: int) -> int:
    """Cells along a side of what layers make of a square."""
    with torch.no_grad():
        found: Tensor = nn.Sequential(*layers)(torch.zeros(1, 3, side, side))
    return found.shape[-1]


def make_views(images: Tensor, count: int, size: int, flip: float, *key: int | str) -> Views:
    """Draw views of images, as a function of ``key``.

    Each is an image that was turned, stretched and shifted, most of them blended with another along a smooth random
    mask; then most are blurred, most are made grey by a weighting of the channels of their own, and light, contrast and
    noise are added.

    Args:
        images: (n, 3, S, S), uint8.
        count: how many views.
        size: side of a view in pixels.
        flip: probability that an image is mirrored.
        key: of the random numbers.
    """
    generator = keyed_generator(*key)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    sources = torch.randint(len(images), (count, 2), generator=generator)
    first, second = (_moved(images[sources[:, part]] / 255, size, flip, draw) for part in range(2))
    mask = _masks(count, size, generator)
    views = mask * first + (1 - mask) * second
    reach = size // 16
    blurred = F.avg_pool2d(F.pad(views, 4 * (reach,), mode="reflect"), 2 * reach + 1, 1)
    views = torch.where(draw(1, 1, 1) < BLURRED, blurred, views)
    weights = draw(3, 1, 1)
    grey = (views * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    views = torch.where(draw(1, 1, 1) < GREY, grey, views)
    views = views * (1 + COLOUR * (2 * draw(3, 1, 1) - 1)) * (1 + COLOUR * (2 * draw(1, 1, 1) - 1))
    mean = views.mean((1, 2, 3), keepdim=True)
    views = mean + (1 + COLOUR * (2 * draw(1, 1, 1) - 1)) * (views - mean)
    noise = torch.randn(views.shape, generator=generator)
    return Views(to_uint8(views + NOISE * draw(1, 1, 1) * noise), sources, mask.mean((1, 2, 3)))


def _moved(images: Tensor, size: int, flip: float, draw: Callable[..., Tensor]) -> Tensor:
    """Images turned, stretched, shifted and mirrored, (count, 3, size, size); what lies outside is a reflection."""
    angle = TURN * (2 * draw() - 1)
    scale = SCALE[0] + (SCALE[1] - SCALE[0]) * draw()
    stretch = torch.exp(STRETCH * (2 * draw() - 1))
    mirror = torch.where(draw() < flip, -1.0, 1.0)
    rows = [scale * stretch * mirror * angle.cos(), -scale * angle.sin(), SHIFT * (2 * draw() - 1)]
    rows += [scale * mirror * angle.sin(), scale / stretch * angle.cos(), SHIFT * (2 * draw() - 1)]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _masks(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Weights (count, 1, size, size) in [0, 1] of a view's first image: soft or sharp blobs, or 1 where none blends."""
    cells = int(torch.randint(CELLS[0], CELLS[1] + 1, (), generator=generator))
    field = F.interpolate(torch.rand(count, 1, cells, cells, generator=generator), (size, size), mode="bilinear")
    level, sharpness, alone = torch.rand(3, count, 1, 1, 1, generator=generator)
    mask = torch.sigmoid(2 * torch.exp(3 * sharpness) * (field - level))
    return torch.where(alone < BLENDED, mask, torch.ones(()))


def train_student(
    images: Tensor, teacher: Teacher, classes: int, size: int, flip: float, settings: StudentSettings
) -> Student:
    """Train a student on what a teacher says about views of images.

    Args:
        images: (n, 3, S, S), uint8.
        teacher: gives the targets.
        classes: C.
        size: side of a view in pixels.
        flip: probability that a crop is mirrored.
        settings: numbers of views and steps, seed.

    Returns:
        The student, on the CPU, in evaluation mode.
    """
    seed = settings.seed
    student = _seeded(lambda: Student(classes, size), "student", seed)
    seen, lessons = [], []
    for first in track(range(0, settings.views, BLOCK), f"Labelling {settings.views} views", transient=True):
        views = make_views(images, min(BLOCK, settings.views - first), size, flip, "student views", seed, first)
        lessons.append(teacher(views))
        seen.append(to_uint8(student.shrunk(views.squares)))
    x, p = torch.cat(seen), torch.cat([lesson.probabilities for lesson in lessons])
    hints = [lesson.embeddings for lesson in lessons if lesson.embeddings is not None]
    learnt = [*student.parameters()]
    if hints:
        z = torch.cat(hints)
        z = (z - z.mean(0)) / (z.std(0) + 1e-6)
        hint = _seeded(lambda: nn.Linear(student.width, z.shape[1]), "student hint", seed)
        learnt += hint.parameters()
    optimizer = torch.optim.AdamW(learnt, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=settings.steps)
    order = keyed_generator("student order", seed)
    for _ in track(range(settings.steps), f"Training the student for {settings.steps} steps", transient=True):
        rows = torch.randint(len(x), (BATCH,), generator=order)
        features = student.features(2 * (x[rows] / 255) - 1)
        loss = F.cross_entropy(student.head(features), p[rows])
        if hints:
            loss = loss + HINT * F.mse_loss(hint(features), z[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student.eval().requires_grad_(False)


def _seeded(make: Callable[[], Module], *key: int | str) -> Module:
    """A module with weights that are a function of ``key``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_generator(*key).initial_seed())
        return make()


def teacher_of(run: OpenRun) -> Teacher:
    """TabICL with the run's context, as a teacher."""
    backbone = run.classifier.image_embedder().backbone

    def teacher(views: Views) -> Lesson:
        z = embed_squares(backbone, views.squares)
        return Lesson(torch.from_numpy(run.classifier.predict_proba(z.numpy())).float(), z)

    return teacher


def flip_of(folder: Path) -> float:
    """How often a run's own views are mirrored; 0 for a context set without its run, whose images may be digits.

    Raises:
        UserError: the run's config.yaml is damaged.
    """
    home = home_of(folder)
    if home is None:
        return 0.0
    try:
        return Augmentation(**of_run(home).augmentation).flip
    except TypeError as error:
        raise UserError(f"{home}: model.views.augmentation: {error}. Mend its config.yaml.") from error


def export_student(
    context: Path | str,
    output: Path | None = None,
    settings: StudentSettings | None = None,
    backbone_weights: str | None = None,
    model_path: str | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Train a student of a run's classifier and write it as one ONNX file.

    Args:
        context: folder of a finished run, or of a context set with images; or a text, the id of one on the Hub.
        output: the file; None for ``student.onnx`` in the current directory. It is written whole or not at all.
        settings: numbers of views and steps, seed.
        backbone_weights: a local weights file; None for the one the run was made with, the bundled or downloaded one.
        model_path: a TabICL checkpoint file; None for the one the run was made with.
        device: where backbone and TabICL run; the student is trained on the CPU.

    Returns:
        Path of the file.

    Raises:
        UserError: see `synthicl.artefact.onnx_file.export_onnx`; or the context set has no images.
    """
    output = OUTPUT if output is None else output
    settings = StudentSettings() if settings is None else settings
    run = open_run(context, "--student", output, OUTPUT, backbone_weights, model_path, device)
    images = run.context_set.images
    if images is None:
        raise UserError(
            f"--student: the context set in {context} has no images, only vectors, and a student learns from images. "
            "Name a finished run, or use --onnx."
        )
    size = int(run.metadata["crop_size"])
    classes = len(run.classifier.classes_)
    student = train_student(images, teacher_of(run), classes, size, flip_of(run.folder), settings)
    squares = example_squares(run.context_set, size)
    about = {"parameters": sum(tensor.numel() for tensor in student.parameters())} | asdict(settings)
    model = to_onnx(student, run.metadata | {"student": json.dumps(about)})
    write_model(model, output, "--student", squares, student(squares).numpy())
    return output
