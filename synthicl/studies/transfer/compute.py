"""``transfer``: synthetic images that were distilled with one backbone, seen by others.

The cross-model matrix of G. Cazenavette, A. Torralba and V. Sitzmann, "Dataset Distillation for Pre-Trained
Self-Supervised Vision Models", 2025, https://arxiv.org/abs/2511.16674: a row for each backbone that images were
distilled with, a column for each one that embeds them. In a column one backbone embeds everything, real and synthetic,
and TabICL's preprocessing is fitted on its training embeddings.

What a backbone is shown: real images as everywhere, short side resized to its resolution, centre crop. Synthetic images
as for the rows of their own context set, the centre crop of the 8-bit image, if the backbone looks at the resolution
that they were distilled for. A backbone with another resolution is shown them as it is shown real images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from synthicl.backbones import BACKBONES
from synthicl.backbones.frozen import FrozenBackbone
from synthicl.backbones.models import efficientnet, mini
from synthicl.core.errors import UserError, check_between
from synthicl.core.settings import MAX_DRAWS, of_subject
from synthicl.coresets import CORESETS
from synthicl.data.transforms import centre_square, crop_centre
from synthicl.embeddings.embedder import embed_squares
from synthicl.embeddings.labelled import LabelledEmbeddings
from synthicl.probes import probe_factory
from synthicl.studies.contexts import QUERY_SPLITS
from synthicl.studies.results import Results
from synthicl.studies.scoring import Context, Job
from synthicl.studies.subject import Subject, embed
from synthicl.tabicl.preprocessing import fit_preprocessing

REFERENCES = ("class_mean", "centroid", "random")
PROBES = ("tabicl", "linear")
FAMILIES = (mini.REGISTERED, efficientnet.REGISTERED)  # whose weights come with the project or with a package


def transfer(
    subject: Subject,
    results: Results,
    backbones: Sequence[str] | None = None,
    runs: Sequence[str] = (),
    weights: Sequence[str] = (),
    random_draws: int = 10,
) -> None:
    """Embed synthetic images with other backbones and score them there, beside real contexts of equal size.

    TabICL's checkpoint, and name and members of its preprocessing, are the subject's throughout.

    Args:
        subject: what is evaluated.
        results: where rows go.
        backbones: which embed; None for those that images were distilled with and, where they need no download, the
            others of their families.
        runs: folders of further runs on the same dataset: more rows of the matrix.
        weights: files of weights of other backbones, for example dinov2_vitb14=/data/dinov2_vitb14_pretrain.pth.
        random_draws: how many real contexts are drawn at random.

    Raises:
        UserError: unknown backbone, missing weights, or runs that cannot stand in one matrix.
    """
    check_between(1, MAX_DRAWS, "--", random_draws=random_draws)
    files = weights_files(weights)
    sources = [*([subject] if subject.context_sets else []), *(open_run(run, subject, files) for run in runs)]
    check(subject, sources)
    if backbones is None:
        own = [run.backbone.name for run in (subject, *sources)]
        backbones = list(dict.fromkeys([*own, *relatives(own)]))
    for backbone, crop_size in observers(subject, sources, backbones, files):
        if backbone is subject.backbone:
            train, queries = subject.embedded("train"), {split: subject.embedded(split) for split in QUERY_SPLITS}
        else:
            train, *others = (embed(backbone, subject.data, split, crop_size) for split in ("train", *QUERY_SPLITS))
            queries = dict(zip(QUERY_SPLITS, others, strict=True))
        preprocessing = fit_preprocessing(subject.preprocessing.name, train.z, subject.preprocessing.n_estimators)
        probes = [probe_factory(name)(subject.probe_setting(preprocessing)) for name in PROBES]
        shared = {name: subject.identity[name] for name in ("dataset", "tabicl_checkpoint")}
        shared["seen_by_weights"] = backbone.fingerprint
        scorer = replace(subject.scorer("transfer", results, backbone=backbone.name), run=shared)
        contexts = list(references(train, subject.ipc, random_draws))
        what = f"Scoring what {backbone.name} sees"
        scorer.score([Job(context, probe) for probe in probes for context in contexts], queries, what)
        for source in sources:
            made_by = {name: source.identity[name] for name in ("backbone", "backbone_weights", "objective")}
            scorer = replace(scorer, run=shared | made_by, seed=source.seed)
            context = synthetic_as_seen(source, backbone, crop_size)
            scorer.score([Job(context, probe) for probe in probes], queries, what)


def weights_files(entries: Sequence[str]) -> dict[str, str]:
    """``name=path`` entries as a mapping.

    Raises:
        UserError: an entry of another form, or a file that is not there.
    """
    for entry in entries:
        if not all(entry.partition("=")):
            raise UserError(f"--weights={entry}: give name=path, for example dinov2_vitb14=/data/weights.pth.")
        if not Path(entry.partition("=")[2]).is_file():
            raise UserError(f"--weights={entry}: no such file. Name the weights file itself.")
    return {name: path for name, _, path in (entry.partition("=") for entry in entries)}


def open_run(run: str, subject: Subject, files: Mapping[str, str]) -> Subject:
    """A further run, on the subject's device, with the weights file that was named for its backbone."""
    folder, settings = of_subject(run, {})
    if named := files.get(settings.backbone.name):
        settings = replace(settings, backbone=replace(settings.backbone, weights=Path(named)))
    return Subject(folder, settings, subject.device)


def check(subject: Subject, sources: Sequence[Subject]) -> None:
    """Check that the runs can stand in one matrix.

    Raises:
        UserError: one has no synthetic images, another dataset, split or number of images per class, another objective
            with the same backbone, or would replace another.
    """
    known: dict[tuple[str, int], Subject] = {}
    objectives: dict[str, Subject] = {}
    for source in sources:
        if not source.context_sets or source.context_sets["last"].images is None:
            raise UserError(f"{source.folder}: there are no synthetic images. Name the folder of a finished run.")
        theirs, ours = (source.settings.data.name, source.ipc), (subject.settings.data.name, subject.ipc)
        if theirs != ours:
            raise UserError(
                f"--runs={source.folder}: {theirs[0]} with {theirs[1]} images per class cannot stand in a matrix of "
                f"{ours[0]} with {ours[1]}. Name runs that agree in both."
            )
        if source.split_seed != subject.split_seed:
            raise UserError(
                f"--runs={source.folder}: was made with --data.split_seed={source.split_seed}, so its images may know "
                f"what they would be scored on. Name runs with {subject.split_seed}."
            )
        same = objectives.setdefault(source.backbone.name, source)
        if source.about["objective"] != same.about["objective"]:
            raise UserError(
                f"--runs={source.folder}: was made with another objective than {same.folder}, and a mean over both "
                "would be neither's. Leave one out."
            )
        twin = known.setdefault((source.backbone.name, source.seed), source)
        if twin is not source:
            raise UserError(
                f"--runs={source.folder}: has the backbone and the seed of {twin.folder}, so one would replace the "
                "other. Leave one out."
            )


def observers(
    subject: Subject, sources: Sequence[Subject], names: Sequence[str], files: Mapping[str, str]
) -> Iterator[tuple[FrozenBackbone, int]]:
    """The backbones that look at the images, each with its resolution in pixels: that of its run, or its own."""
    for name in names:
        BACKBONES.get(name, "--backbones")
    own = {run.backbone.name: run for run in (*reversed(sources), subject)}
    for name in names:
        if name in own:
            yield own[name].backbone, own[name].crop_size
        else:
            backbone = FrozenBackbone(name, files.get(name)).to(subject.device)
            yield backbone, backbone.image_size


def relatives(names: Sequence[str]) -> Iterator[str]:
    """Members of the families of these backbones whose weights are on disk."""
    for family in FAMILIES:
        if set(names) & set(family):
            yield from (name for name, spec in family.items() if spec.weights.find())


def references(train: LabelledEmbeddings, ipc: int, random_draws: int) -> Iterator[Context]:
    """Real contexts from a backbone's training embeddings."""
    for name in REFERENCES:
        for draw in range(random_draws if name == "random" else 1):
            selected = CORESETS.get(name)(train, ipc, draw)
            yield Context(name, draw, "", selected.rows)


def synthetic_as_seen(source: Subject, backbone: FrozenBackbone, crop_size: int) -> Context:
    """A run's synthetic images in the eyes of a backbone; the name tells what they were distilled with."""
    found = source.context_sets["last"]
    assert found.images is not None
    z = embed_squares(backbone, as_seen(found.images, source.crop_size, crop_size))
    return Context(f"synthetic ({source.backbone.name})", 0, "last", found.rows._replace(z=z))


def as_seen(images: Tensor, made_for: int, crop_size: int) -> Tensor:
    """What a backbone is shown of synthetic images; see the module.

    Args:
        images: (n, 3, S, S), uint8, as the PNGs hold them.
        made_for: resolution that they were distilled for, in pixels.
        crop_size: resolution that the backbone looks at, in pixels.

    Returns:
        (n, 3, crop_size, crop_size), uint8.
    """
    if crop_size == made_for:
        return crop_centre(images, crop_size)
    pictures = (Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images)
    return torch.stack([centre_square(picture, crop_size) for picture in pictures])
