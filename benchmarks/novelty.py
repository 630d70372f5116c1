"""Which score tells images apart from the training set: candidates on pairs of datasets, val against val.

    python benchmarks/novelty.py --pairs digits:letters groceries:groceries-tuning --data.root grocery-store.tar

A pair is what the backbone's score is fitted on, and what it is to tell from it: a dataset's name, ``folder=PATH``, or
``letters``, drawn with matplotlib's fonts as digits are: 8 x 8 pixels, white on black. The table is Markdown.
Pairs that results are reported for (test, groceries against digits, noise) choose nothing and do not belong here.
"""

from __future__ import annotations

import synthicl  # noqa: F401  # isort: skip  # first: it sets how threads wait, before torch loads OpenMP

import argparse
import string
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pytorch_ood.detector import KNN, Mahalanobis
from torch import Tensor

from synthicl.core.auroc import auroc
from synthicl.core.settings import of_subject
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.transforms import centre_square
from synthicl.embeddings.embedder import embed_squares
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import novelty
from synthicl.report.table import Table, markdown
from synthicl.studies.subject import Subject, embed

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "DejaVuSans-Oblique")
Score = Callable[[Tensor], np.ndarray]


def unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z.double(), dim=1)


def residual(directions: int, scale: Callable[[Tensor], Tensor]) -> Callable[[LabelledEmbeddings], tuple[Score, int]]:
    """What lies outside of some principal directions."""

    def fit(train: LabelledEmbeddings) -> tuple[Score, int]:
        mean = scale(train.z).mean(0)
        kept = torch.linalg.svd(scale(train.z) - mean, full_matrices=False).Vh[:directions].T

        def score(z: Tensor) -> np.ndarray:
            centred = scale(z) - mean
            return np.asarray((centred - centred @ kept @ kept.T).norm(dim=1))

        return score, mean.numel() + kept.numel()

    return fit


def nearest_mean(train: LabelledEmbeddings) -> tuple[Score, int]:
    means = torch.stack([unit(train.z)[train.y == label].mean(0) for label in train.y.unique()])
    return lambda z: torch.cdist(unit(z), means).min(1).values.numpy(), means.numel()


def mahalanobis(train: LabelledEmbeddings) -> tuple[Score, int]:
    """Of K. Lee et al., NeurIPS 2018."""
    detector = Mahalanobis(None).fit_features(unit(train.z).float(), train.y)
    kept = detector.mu.numel() + detector.cov.numel()
    return lambda z: detector.predict_features(unit(z).float()).numpy(), kept


def neighbour(k: int) -> Callable[[LabelledEmbeddings], tuple[Score, int]]:
    """Of Y. Sun et al., ICML 2022; it keeps the whole training set."""

    def fit(train: LabelledEmbeddings) -> tuple[Score, int]:
        detector = KNN(None, k=k).fit_features(train.z, train.y)
        return lambda z: detector.predict_features(z).numpy(), train.z.numel()

    return fit


def ours(train: LabelledEmbeddings) -> tuple[Score, int]:
    fitted = novelty.fit_novelty(train.z)
    return fitted, fitted.numbers


CANDIDATES = {
    "residual, 16 directions": residual(16, unit),
    "residual, 32 directions": residual(32, unit),
    "residual, 64 directions": residual(64, unit),
    "residual, 64 directions, not of unit length": residual(64, lambda z: z.double()),
    "nearest class mean": nearest_mean,
    "Mahalanobis (pytorch-ood)": mahalanobis,
    "nearest training image (pytorch-ood)": neighbour(1),
    "10th nearest training image (pytorch-ood)": neighbour(10),
    "as in synthicl": ours,
}


def letters(side: int) -> Tensor:
    """Letters as the digits are drawn, as squares (n, 3, side, side), uint8."""
    squares = []
    for font in FONTS:
        face = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"), 26)
        for letter in string.ascii_letters:
            drawn = Image.new("L", (32, 32))
            ImageDraw.Draw(drawn).text((16, 16), letter, 255, font=face, anchor="mm")
            squares.append(centre_square(drawn.resize((8, 8), Image.Resampling.BOX).convert("RGB"), side))
    return torch.stack(squares)


def other(subject: Subject, name: str) -> Tensor:
    """Embeddings of what is to be told apart."""
    if name == "letters":
        return embed_squares(subject.backbone, letters(subject.crop_size))
    dataset, _, root = name.partition("=")
    data = ImageDataModule(dataset, Path(root or subject.settings.data.root))
    return embed(subject.backbone, data, "val", subject.crop_size).z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument("--data.root", dest="root", default="data")
    args = parser.parse_args()
    cells: dict[str, list[str]] = {name: [] for name in CANDIDATES}
    kept: dict[str, list[str]] = {name: [] for name in CANDIDATES}
    header = []
    for pair in args.pairs:
        inside, _, outside = pair.partition(":")
        subject = Subject(*of_subject(inside, {"data.root": args.root}))
        train, val, unlike = subject.embedded("train"), subject.embedded("val").z, other(subject, outside)
        header.append(f"{inside} ({len(val)}) and {outside.rpartition('/')[2]} ({len(unlike)})")
        for name, fit in CANDIDATES.items():
            score, numbers = fit(train)
            cells[name].append(f"{auroc(score(unlike), score(val)).estimate:.3f}")
            kept[name].append(f"{numbers:,}")
    body = [
        [name, " / ".join(dict.fromkeys(kept[name])), *found, f"{np.mean([float(cell) for cell in found]):.3f}"]
        for name, found in cells.items()
    ]
    print(markdown(Table("", ["score", "numbers kept", *header, "mean"], body)))


if __name__ == "__main__":
    main()
