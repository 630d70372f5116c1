"""What a context set says of one image: class, probabilities, set, novelty, and which of its rows TabICL looks at.

`synthicl.artefact.demo` shows it on a page. Numbers are those of ``predict``; nothing here needs a web server.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, Template
from PIL import Image
from torch import Tensor

from synthicl.artefact.context_set import BEST
from synthicl.artefact.doubt import Doubt
from synthicl.artefact.opened import open_set
from synthicl.artefact.predict import read_square
from synthicl.core.errors import UserError
from synthicl.core.settings import LEVEL
from synthicl.embeddings.embedder import embed_squares
from synthicl.probes.attention import ContextAttention

CLASSES, ROWS = 10, 20  # that are shown by themselves; the others together
THUMBNAIL = 128  # side in pixels at most


@dataclass(frozen=True)
class Answer:
    """What is known of one image, of C classes and n context rows.

    Attributes:
        square: (3, s, s), uint8, the pixels that the backbone got.
        names: of the classes, sorted as scikit-learn does.
        probabilities: (C,), at the temperature of the context set.
        chosen: (C,), bool: the conformal set; None where the context set keeps nothing of val.
        novelty: how unlike the training images it is; None likewise.
        most_novel: the novelty above which it is marked; None likewise, infinite where val is too small to tell.
        novel: whether a warning is due.
        attention: (n,), shares that sum to 1, mean over members, heads and blocks; None where TabICL is asked
            several questions.
    """

    square: Tensor
    names: Sequence[str]
    probabilities: np.ndarray
    chosen: np.ndarray | None = None
    novelty: float | None = None
    most_novel: float | None = None
    novel: bool = False
    attention: np.ndarray | None = None

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.names[int(self.probabilities.argmax())]


class Bar(NamedTuple):
    """A class or a context row, as it is drawn.

    Attributes:
        name: of the class.
        share: of the probability or of the attention.
        marked: whether the class is in the set, or the row is of the class that was answered.
        picture: address of the row's pixels; empty where there are none.
    """

    name: str
    share: float
    marked: bool
    picture: str = ""


class Answerer:
    """A context set that is asked about images.

    Args:
        context: folder of a finished run or of a context set, or the id of one on the Hugging Face Hub.
        backbone_weights: a local weights file; None for the one the run was made with.
        model_path: a TabICL checkpoint file; None for the one the run was made with.
        device: where backbone and TabICL run.
        coverage: of the conformal sets, between 0 and 1.
        reject: share of images like those of val that is not warned of, between 0 and 1.

    Attributes:
        context: the set.
        title: its dataset and the folder's name.

    Raises:
        UserError: no context set there, other weights than the run's, a missing file, or a number out of range.
    """

    def __init__(
        self,
        context: Path | str,
        backbone_weights: str | None = None,
        model_path: str | None = None,
        device: torch.device | str = "cpu",
        coverage: float = LEVEL,
        reject: float = LEVEL,
    ) -> None:
        self.doubt, self.coverage, self.reject = Doubt(coverage, reject), coverage, reject
        folder, self.context, self.classifier, self.embedder = open_set(context, backbone_weights, model_path, device)
        self.attention = ContextAttention.of(self.classifier.probe_, self.context.rows)
        name = str(context) if folder != Path(context) else _folder_name(folder)
        self.title = " · ".join(filter(None, [str(self.context.metadata.get("dataset", "")), name]))

    def __call__(self, image: Path | Image.Image) -> Answer:
        """Answer for one image, treated as a real one: its short side resized, its centre cropped.

        Raises:
            UserError: it cannot be read.
        """
        square = read_square(self.embedder.squares([image]), 0)
        if isinstance(square, str):
            raise UserError(square)
        z = embed_squares(self.embedder.backbone, square[None])
        probabilities = self.classifier.predict_proba(z.numpy())
        answer = Answer(square, [str(name) for name in self.classifier.classes_], probabilities[0])
        if self.attention is not None:
            answer = replace(answer, attention=self.attention(z).mean(0)[0].numpy())
        if calibration := self.context.calibration:
            novelty = calibration.novelty(z)
            answer = replace(
                answer,
                chosen=calibration.sets(probabilities, self.coverage)[0],
                novelty=float(novelty[0]),
                most_novel=calibration.most_novel(self.reject),
                novel=bool(calibration.novel(novelty, self.reject)[0]),
            )
        return answer

    @cached_property
    def pictures(self) -> list[str]:
        """An address of the pixels of each context row; empty where the set has no images."""
        if self.context.images is None:
            return [""] * len(self.context.labels)
        return [_address(image) for image in self.context.images]

    def html(self, answer: Answer) -> str:
        """An answer as HTML that stands on its own; names are escaped."""
        order = answer.probabilities.argsort(kind="stable")[::-1]
        inside = answer.chosen if answer.chosen is not None else np.zeros(len(order), dtype=bool)
        classes = [Bar(answer.names[i], float(answer.probabilities[i]), bool(inside[i])) for i in order]
        rows: list[Bar] = []
        if answer.attention is not None:
            names = [self.context.class_names[label] for label in self.context.labels.tolist()]
            rows = [
                Bar(names[i], float(answer.attention[i]), names[i] == answer.label, self.pictures[i])
                for i in answer.attention.argsort(kind="stable")[::-1]
            ]
        calibration = self.context.calibration
        return _template().render(
            answer=answer,
            seen=_address(answer.square),
            classes=classes,
            rows=rows,
            shown={"classes": CLASSES, "rows": ROWS},
            coverage=self.coverage,
            reject=self.reject,
            calibration=calibration,
            too_few=self.doubt.out_of_reach(calibration) if calibration else {},
            remarks=self.doubt.explained(calibration) if calibration else [],
        )


@cache
def _template() -> Template:
    environment = Environment(loader=PackageLoader("synthicl.artefact"), autoescape=True, trim_blocks=True)
    environment.filters["percent"] = _percent
    return environment.get_template("answer.html.jinja")


def _percent(share: float) -> str:
    """A share in percent; nothing is certain, and nothing impossible."""
    return "> 99.9 %" if share > 0.9995 else "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _folder_name(folder: Path) -> str:
    """What a run is called: of ``latest`` the version it leads to, with ``best_on_val`` its run's name."""
    real = folder.resolve()
    return f"{real.parent.name}/{real.name}" if real.name == BEST else real.name


def _address(image: Tensor) -> str:
    """The pixels of an image (3, H, W), uint8, as an address, made smaller where it is large."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
