"""``privacy``: how near are the synthetic images to single training images, and do they tell who was trained on?

**Nearness.** For each image of a context, the distance d1 to its nearest training image and d2 to its second nearest,
in embeddings and in pixels. A copy has d1 = 0. The ratio d1 / d2 is the nearest-neighbour distance ratio (NNDR; D. G.
Lowe, IJCV 60, 2004; for synthetic data Z. Zhao, A. Kunar, R. Birke and L. Y. Chen, "CTAB-GAN", ACML 2021): 0 for a
copy, near 1 where no single training image stands out. d1 itself is read beside that of test images, no copies (M.
Platzer and T. Reutterer, "Holdout-Based Empirical Assessment of Mixed-Type Synthetic Data", Frontiers in Big Data 4,
2021). Such distances find copies. They do not show that nothing leaks (Z. Yao, N. Krčo, G. Ganev and Y.-A. de Montjoye,
"The DCR Delusion", 2025, https://arxiv.org/abs/2505.01524), nor does dataset distillation by itself (N. Carlini, V.
Feldman and M. Nasr, 2022, https://arxiv.org/abs/2209.14987), hence

**Membership.** Can training images be told from test images by their distance to the nearest context row of their class
(D. Chen, N. Yu, Y. Zhang and M. Fritz, "GAN-Leaks", CCS 2020), or by TabICL's loss on them (S. Yeom, I. Giacomelli, M.
Fredrikson and S. Jha, CSF 2018)? The answer is an AUROC, an average over images: a few that can be told hardly move it,
and an attack that trains models of its own may see more.

**Yardsticks.** ``centroid``: real training images, whose d1 is 0. ``all``: every training image, which the distance
tells perfectly. ``unseen``: the images of val that lie nearest to their class mean. They were not trained on, but share
backbone, preprocessing and split with the synthetic rows: what they tell is not the synthetic images' doing. A backbone
that was trained on the training images shows here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthicl.core.errors import UserError, check_at_least
from synthicl.core.randomness import keyed_generator
from synthicl.coresets.centroid import centroid
from synthicl.data.transforms import SquareImages
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes.score import chance_of_truth
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.contexts import real_contexts, synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Context, Extra, Job
from synthicl.studies.subject import Subject

SIDES = ("train", "test")  # those that were trained on, and those that were not
PIXEL_QUERIES = 100  # test images that are compared with all training images pixel by pixel
SHOWN = 10  # synthetic images that are shown beside their nearest training images
CHUNK = 64  # images or rows that are held at once


class Nearest(NamedTuple):
    """The nearest training images of n rows.

    Attributes:
        distances: (n, 2), float64, to the nearest and the second nearest.
        which: (n,), index of the nearest one.
    """

    distances: np.ndarray
    which: Tensor


def privacy(subject: Subject, results: Results, max_images: int = 2000) -> None:
    """Measure how near synthetic images are to training images, and whether they tell these from test images.

    The training images that synthetic ones are nearest to go into the report and into predictions.safetensors.

    Args:
        subject: what is evaluated.
        results: where rows, distances and images go.
        max_images: how many training images, and how many test images, membership is tried on; drawn where there are
            more.

    Raises:
        UserError: there is no context set, or too few images are asked for.
    """
    check_at_least(2, "--", max_images=max_images)
    if not subject.context_sets:
        raise UserError(f"{subject.folder}: there are no synthetic images. Name the folder of a finished run.")
    train, val = subject.embedded("train"), subject.embedded("val")
    sides = {side: drawn(subject.embedded(side), max_images, side) for side in SIDES}
    held_out = centroid(val, subject.ipc, 0)
    contexts = [
        *synthetic_contexts(subject),
        *real_contexts(subject, subject.ipc, 1, ("centroid", "all")),
        Context("unseen", 0, "", held_out.rows, lambda: squares(subject, "val", held_out.indices)),
    ]
    compared = [context for context in contexts if context.name != "all"]

    @cache
    def in_pixels() -> Mapping[str, Nearest]:
        """By context, and of test images; nothing for a set of bare vectors."""
        if subject.context_sets["last"].images is None:
            return {}
        asked = {context.name + context.checkpoint: context.images() for context in compared if context.images}
        some = torch.randperm(len(subject.data.splits["test"]), generator=keyed_generator(0, "pixels of test"))
        asked["test"] = squares(subject, "test", some[:PIXEL_QUERIES])
        found = nearest_pixels(torch.cat(list(asked.values())), training_squares(subject))
        parts = np.cumsum([len(images) for images in asked.values()])[:-1]
        pairs = zip(np.split(found.distances, parts), found.which.tensor_split(parts.tolist()), strict=True)
        return {name: Nearest(*pair) for name, pair in zip(asked, pairs, strict=True)}

    probe = Keeping(subject.deployment, subject.device)

    def measure(job: Job, split: str, predictions: np.ndarray, probabilities: np.ndarray) -> Extra:
        context, asked = job.context, sides[split]
        chance = chance_of_truth(probe.said, asked.y.numpy(), np.unique(context.rows.y.numpy()))
        arrays = {
            "loss": -np.log(np.maximum(chance, 1e-12)),
            "distance": to_own_class(context.rows, asked),
        }
        if split == "train" and context in compared:
            near = nearest_embeddings(context.rows.z, train.z)
            arrays["near embeddings"] = near.distances
            pixels = in_pixels().get(context.name + context.checkpoint)
            if pixels is not None:
                arrays["near pixels"] = pixels.distances
                if context is contexts[0]:
                    arrays["pairs"] = pairs(subject, context, near, pixels)
        if split == "test" and context.name == "unseen":
            arrays["near embeddings"] = nearest_embeddings(asked.z, train.z).distances
            if pixels := in_pixels().get("test"):
                arrays["near pixels"] = pixels.distances
        numbers = {"training_images": len(train.y), "preprocessing_numbers": subject.preprocessing.numbers}
        return Extra(numbers, arrays)

    jobs = [Job(context, probe, sides) for context in contexts]
    subject.scorer("privacy", results).score(jobs, None, "Telling training images from test images", measure)


class Keeping(TabICLProbe):
    """TabICL that keeps what it said last: `Extra` is told classes alone.

    Attributes:
        said: class probabilities (q, C) of the last queries.
    """

    said: np.ndarray

    def predict_proba(self, z: Tensor) -> np.ndarray:
        """See `TabICLProbe`."""
        self.said = super().predict_proba(z)
        return self.said


def drawn(rows: LabelledEmbeddings, most: int, side: str) -> LabelledEmbeddings:
    """All rows, or as many as ``most`` of them, drawn without replacement."""
    if len(rows.y) <= most:
        return rows
    return rows.at(torch.randperm(len(rows.y), generator=keyed_generator(0, "membership", side))[:most])


def training_squares(subject: Subject) -> SquareImages:
    """The training images at the resolution of the synthetic ones."""
    return SquareImages(subject.data.splits["train"], subject.image_size)


def squares(subject: Subject, split: str, indices: Tensor | None) -> Tensor:
    """Images of a split, (n, 3, S, S), uint8, at the resolution of the synthetic ones."""
    images = SquareImages(subject.data.splits[split], subject.image_size)
    return torch.stack([images[int(index)] for index in ([] if indices is None else indices)])


def nearest_embeddings(z: Tensor, train: Tensor) -> Nearest:
    """The nearest training embeddings (N, D), N being 2 at least, of rows (n, D), by Euclidean distance."""
    distances, indices = [], []
    for part in z.double().split(CHUNK):
        # Without the shortcut through products, in which a copy's distance would not be 0.
        every = torch.cdist(part, train.double(), compute_mode="donot_use_mm_for_euclid_dist")
        best = every.topk(2, largest=False)
        distances.append(best.values)
        indices.append(best.indices[:, 0])
    return Nearest(torch.cat(distances).numpy(), torch.cat(indices))


def nearest_pixels(images: Tensor, train: SquareImages) -> Nearest:
    """The nearest training images of images (n, 3, S, S), uint8, by root mean square difference in grey levels."""
    best = torch.full((len(images), 2), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(images), 2, dtype=torch.long)
    for start in range(0, len(train), CHUNK):
        there = range(start, min(start + CHUNK, len(train)))
        # Whole numbers below 2^53: products in float64 are exact, and so is the 0 of a copy.
        real = torch.stack([train[i] for i in there]).flatten(1).double()
        for part in torch.arange(len(images)).split(CHUNK):
            ours = images[part].flatten(1).double()
            squared = (ours**2).sum(1)[:, None] - 2 * ours @ real.T + (real**2).sum(1)
            both = torch.cat([best[part], squared], 1).topk(2, largest=False)
            known = torch.cat([index[part], torch.tensor(there).expand(len(part), -1)], 1)
            best[part], index[part] = both.values, known.gather(1, both.indices)
    return Nearest((best / images[0].numel()).sqrt().numpy(), index[:, 0])


def to_own_class(rows: LabelledEmbeddings, asked: LabelledEmbeddings) -> np.ndarray:
    """Distance of each query to the nearest row of its own class, (q,); infinite where its class has no row."""
    found = torch.full((len(asked.y),), torch.inf, dtype=torch.float64)
    for label in rows.y.unique():
        of_class = asked.y == label
        if of_class.any():
            found[of_class] = torch.from_numpy(_to_nearest(asked.z[of_class], rows.z[rows.y == label]))
    return found.numpy()


def _to_nearest(z: Tensor, others: Tensor) -> np.ndarray:
    """Distance of each row of (n, D) to the nearest of (m, D)."""
    parts = z.double().split(CHUNK)
    every = (torch.cdist(part, others.double(), compute_mode="donot_use_mm_for_euclid_dist") for part in parts)
    nearest: np.ndarray = torch.cat([part.amin(1) for part in every]).numpy()
    return nearest


def pairs(subject: Subject, context: Context, near: Nearest, pixels: Nearest) -> np.ndarray:
    """The synthetic images that are nearest to a training image, each with its nearest by embedding and by pixels.

    Returns:
        (k, 3, 3, S, S), uint8, for k of `SHOWN` at most.
    """
    assert context.images is not None
    chosen = torch.from_numpy(near.distances[:, 0]).argsort(stable=True)[:SHOWN]
    shown = [context.images()[chosen], *(subject.images(found.which[chosen]) for found in (near, pixels))]
    return torch.stack(shown, 1).numpy()
