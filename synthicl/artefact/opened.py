"""A context set as every tool opens it: by its folder or its id on the Hub, with the files its run was made with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from synthicl.artefact.classifier import InContextClassifier, embedder_of_fitted, open_context_set
from synthicl.artefact.context_set import BEST, ContextSet
from synthicl.core.hub import local_folder
from synthicl.core.run_folder import CONTEXT_FILE
from synthicl.core.settings import of_run
from synthicl.embeddings.embedder import ImageEmbedder


class OpenSet(NamedTuple):
    """A context set, ready for images.

    Attributes:
        folder: that holds it; of a set on the Hub, in the Hub's cache.
        context_set: as it was read.
        classifier: fitted on it.
        embedder: the classifier's own, which turns images into rows.
    """

    folder: Path
    context_set: ContextSet
    classifier: InContextClassifier
    embedder: ImageEmbedder

    @property
    def files(self) -> list[Path]:
        """What is read of it, and must not be written to."""
        configurations = [folder / "config.yaml" for folder in (self.folder, self.folder.parent)]
        models = [self.classifier.probe_.deployment.model_path, self.embedder.backbone.weights]
        return [self.folder / CONTEXT_FILE, *configurations, *models]


def open_set(
    context: Path | str,
    backbone_weights: str | Path | None = None,
    model_path: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> OpenSet:
    """Open a context set.

    Args:
        context: folder of a finished run, or of a context set; or a text, the id of one on the Hugging Face Hub.
        backbone_weights: a local weights file; None for the one the run was made with, the bundled or downloaded one.
        model_path: a TabICL checkpoint file; None for the one the run was made with.
        device: where backbone and TabICL run.

    Raises:
        UserError: no context set there, other weights than the run's, or a missing file.
    """
    folder = local_folder(context)
    context_set = ContextSet.load(folder)
    own_model, own_weights = files_of_the_run(folder)
    classifier = open_context_set(context_set, model_path or own_model, device, backbone_weights or own_weights)
    return OpenSet(folder, context_set, classifier, embedder_of_fitted(classifier))


def home_of(folder: Path) -> Path | None:
    """The folder of the run that a context set belongs to; None for a context set alone."""
    home = folder.parent if folder.name == BEST else folder
    return home if (home / "config.yaml").is_file() else None


def files_of_the_run(folder: Path) -> tuple[Path | None, Path | None]:
    """TabICL's checkpoint and the backbone's weights that a run was made with, as far as they still lie there."""
    home = home_of(folder)
    if home is None:
        return None, None
    settings = of_run(home)
    model, weights = (
        path if path and path.exists() else None for path in (settings.tabicl.model_path, settings.backbone.weights)
    )
    return model, weights
