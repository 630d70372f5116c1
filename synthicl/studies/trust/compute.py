"""``trust``: when not to trust TabICL: calibration, conformal sets, and images unlike the training set.

Everything that ``predict --coverage`` and ``--reject`` use comes from val; here it meets test, images of other
datasets, and noise. A synthetic context set brings its own calibration, if it keeps one; for other contexts, and for
sets of before, val gives one here in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from synthicl.core.errors import UserError, check_between
from synthicl.core.randomness import keyed_generator
from synthicl.data.datamodule import ImageDataModule
from synthicl.data.datasets import DATASETS
from synthicl.embeddings.embedder import embed_squares
from synthicl.embeddings.labelled import fingerprint
from synthicl.probes.calibrated import Calibration, calibrate
from synthicl.probes.calibration import brier, reliability
from synthicl.probes.novelty import fit_novelty
from synthicl.probes.score import judge
from synthicl.probes.tabicl import TabICLProbe
from synthicl.studies.contexts import real_contexts, synthetic_contexts
from synthicl.studies.results import Results
from synthicl.studies.scoring import Extra, Job
from synthicl.studies.subject import Subject, embed

LEVELS = (0.8, 0.9, 0.95, 0.99)  # of coverage
ACCEPTED = 0.95  # share of images like val that is not rejected
MAX_NOISE = 2000
BLUR = 1 / 16  # standard deviation of the smoothing, as a share of the image's side


def trust(
    subject: Subject,
    results: Results,
    others: Sequence[str] = (),
    contexts: Sequence[str] = ("all",),
    noise: int = 300,
) -> None:
    """Score on test what val promises: calibrated probabilities, sets that hold the true class, rejected images.

    Args:
        subject: what is evaluated.
        results: where rows and scores go.
        others: datasets whose test images are to be told apart, such as groceries, or with the place of their images,
            folder=my/images; noise always takes part.
        contexts: which real contexts (names as in synthicl/coresets; of random ones the first draw); the synthetic
            ones always take part.
        noise: images of noise of each kind.

    Raises:
        UserError: an unknown dataset, one that is named twice, or the subject's own.
    """
    check_between(2, MAX_NOISE, "--", noise=noise)
    unlike = images_unlike(subject, others, noise)
    shown = {"unlike": {name: fingerprint(z) for name, z in unlike.items()}}
    # All tables and the figure are about the same images.
    results.drop([row for row in results.select(command="trust") if row.run.get("unlike") != shown["unlike"]])
    val, test = subject.embedded("val"), subject.embedded("test")
    novelty = fit_novelty(subject.embedded("train").z)
    own = {found.metadata.get("checkpoint", name): found.calibration for name, found in subject.context_sets.items()}

    def measure(job: Job, split: str, predictions: np.ndarray, probabilities: np.ndarray) -> Extra:
        classes, truth = np.unique(job.context.rows.y.numpy()), test.y.numpy()
        calibration = own.get(job.context.checkpoint) or calibrate(job.probe, classes, val, novelty)
        after = calibration.probabilities(probabilities)
        confidence = {"before": probabilities.max(1), "after": after.max(1)}
        measures = {
            "temperature": calibration.temperature,
            "val_images": calibration.images,
            "brier": brier(probabilities, truth, classes),
            "ece": reliability(confidence["before"], predictions == truth).error,
            "tempered_cross_entropy": judge(after, test, classes)[1]["cross_entropy"],
            "tempered_brier": brier(after, truth, classes),
            "tempered_ece": reliability(confidence["after"], predictions == truth).error,
            "tempered_confidence": float(confidence["after"].mean()),
            "confidence": float(confidence["before"].mean()),
        }
        most = calibration.most_novel(ACCEPTED)
        if math.isfinite(most):  # val has images enough
            measures["most_novel"] = most
        for level in LEVELS:
            measures |= conformal(calibration, after, truth, classes, level)
        arrays = {"novelty/test": calibration.novelty(test.z), "confidence/test": confidence["after"]}
        for name, z in unlike.items():
            arrays[f"novelty/{name}"] = calibration.novelty(z)
            arrays[f"confidence/{name}"] = calibration.probabilities(job.probe.predict_proba(z)).max(1)
        return Extra(measures, {name: array.astype(np.float32) for name, array in arrays.items()})

    chosen = [*synthetic_contexts(subject), *real_contexts(subject, subject.ipc, 1, contexts)]
    probe = TabICLProbe(subject.deployment, subject.device)
    scorer = subject.scorer("trust", results)
    scorer = replace(scorer, run=scorer.run | shown)
    scorer.score([Job(context, probe) for context in chosen], {"test": test}, "Doubting predictions", measure)


def conformal(
    calibration: Calibration, probabilities: np.ndarray, truth: np.ndarray, classes: np.ndarray, level: float
) -> dict[str, float]:
    """Coverage of conformal sets at a level, their mean size, and the share that holds one class."""
    sets = calibration.sets(probabilities, level)
    size = sets.sum(1)
    held = (sets & (classes[None] == truth[:, None])).any(1)
    found = {"coverage": held.mean(), "size": size.mean(), "single": (size == 1).mean()}
    return {f"{name}_{level}": float(value) for name, value in found.items()}


def images_unlike(subject: Subject, others: Sequence[str], noise: int) -> dict[str, Tensor]:
    """Embeddings of images that are none of the subject's, by name.

    Raises:
        UserError: see `trust`.
    """
    found: dict[str, Tensor] = {}
    for other in others:
        name, _, root = other.partition("=")
        asked = subject.settings.data
        DATASETS.get(name, "--others")
        try:
            data = ImageDataModule(name, Path(root or asked.root), asked.num_workers, asked.split_seed)
        except UserError as error:
            raise UserError(str(error).replace("--data.root=", f"--others={name}=")) from error
        if name in found:
            raise UserError(f"--others={other}: {name} is named twice. Name each dataset once.")
        if (name, data.root) == (asked.name, asked.root) or (name == asked.name and not root):
            raise UserError(f"--others={other}: is what {subject.folder} was made from. Name another dataset.")
        found[name] = embed(subject.backbone, data, "test", subject.crop_size).z
    side = subject.crop_size
    white = torch.rand(noise, 3, side, side, generator=keyed_generator("noise", noise, side))
    found["noise"] = embed_squares(subject.backbone, (255 * white).round().to(torch.uint8))
    found["smooth noise"] = embed_squares(subject.backbone, smoothed(white))
    return found


def smoothed(white: Tensor) -> Tensor:
    """Noise (n, 3, S, S) in [0, 1] blurred, and each image stretched to 0 to 255, uint8."""
    side = white.shape[-1]
    blurred = torch.from_numpy(gaussian_filter(white.numpy(), (0, 0, BLUR * side, BLUR * side)))
    low, high = blurred.amin((1, 2, 3), keepdim=True), blurred.amax((1, 2, 3), keepdim=True)
    return (255 * (blurred - low) / (high - low)).round().to(torch.uint8)
